"""What a bucket says of an object."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:  # obstore gives this type to type checkers only
    from obstore import GetResult

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Found:
    """What is under a key, as told by the store; `sha256` as noted when it was put, if it was."""

    size: int
    sha256: str | None
    e_tag: str | None
    version_id: str | None

    @classmethod
    def of(cls, result: "GetResult") -> Self:
        """What the answer to a GET or HEAD says."""
        meta, noted = result.meta, str(result.attributes.get("sha256", ""))
        return cls(meta["size"], noted if _SHA256.fullmatch(noted) else None, meta["e_tag"], meta["version"])
