"""Run by the build: takes out of the layer what no function here ever loads. `python3 trim_sdk.py SITE_PACKAGES`.

botocore carries a model of every AWS service, and one file with the endpoints of all of them that is parsed at every
start. Whoever adds a service to the functions adds its name here; until then the SDK says `UnknownServiceError`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

SERVICES = {"dynamodb", "kms", "secretsmanager", "sts"}


def trim(site_packages: Path) -> None:
    """Remove the models and endpoints of all services but SERVICES."""
    for data in (site_packages / "botocore/data", site_packages / "boto3/data"):
        for folder in data.iterdir():
            if folder.is_dir() and folder.name not in SERVICES:
                shutil.rmtree(folder)
    endpoints = site_packages / "botocore/data/endpoints.json"
    value = json.loads(endpoints.read_text())
    for partition in value["partitions"]:
        partition["services"] = {
            name: service for name, service in partition["services"].items() if name in SERVICES
        }
    endpoints.write_text(json.dumps(value, separators=(",", ":")))
    shutil.rmtree(site_packages / "bin", ignore_errors=True)


if __name__ == "__main__":
    trim(Path(sys.argv[1]))
