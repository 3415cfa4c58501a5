"""The size of what is deployed, in bytes: unpacked and zipped, and its largest parts."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from local.cloud import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_PARTS: Final = 8


@dataclass(frozen=True, slots=True)
class Size:
    """Sizes of one artefact in bytes; `parts` are its largest packages unpacked, `byte_code` is part of the whole."""

    unpacked: int
    zipped: int
    byte_code: int
    parts: dict[str, int]


def measure_size(artefact: Path) -> Size:
    """Return the sizes of a built artefact's folder."""
    parts: Counter[str] = Counter()
    byte_code = 0
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(artefact.rglob("*")):
            if file.is_file():
                place = file.relative_to(artefact)
                bytes_of_file = file.stat().st_size
                parts[place.parts[1] if len(place.parts) > 1 else place.name] += bytes_of_file
                byte_code += bytes_of_file if file.suffix == ".pyc" else 0
                packed.write(file, place)
    return Size(sum(parts.values()), archive.tell(), byte_code, dict(parts.most_common(_LARGEST_PARTS)))


def read_budgets_bytes() -> dict[str, int]:
    """Return the largest size that the build allows for each artefact, from its Makefile."""
    functions, layer = (
        _largest_kb(PROJECT / folder / "Makefile") for folder in ("functions", "layers/common")
    )
    return {
        "BrokerFunction": 1024 * functions,
        "CampaignsFunction": 1024 * functions,
        "CommonLayer": 1024 * layer,
    }


def _largest_kb(makefile: Path) -> int:
    (found,) = re.findall(r"^LARGEST_KB = (\d+)$", makefile.read_text(), re.MULTILINE)
    return int(found)
