"""Names of Python modules and files, as manifests have them."""

from typing import Annotated

from pydantic import Field

Import = Annotated[
    str,
    Field(
        max_length=1024,
        pattern=r"^(.*\.py|[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*)$",
    ),
]
