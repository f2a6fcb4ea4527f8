"""The contracts: the manifest, the wire, and the errors of their edges."""
