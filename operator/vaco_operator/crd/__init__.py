"""The VACOJob as a Kubernetes API: its CustomResourceDefinition, generated from the models.

`structure` turns the schema's tree into what an API server knows of types, defaults and bounds,
`rules` says in CEL what must hold between fields and what may change when, and `definition` puts
both into the document that `vaco crd` prints and the chart installs.
"""
