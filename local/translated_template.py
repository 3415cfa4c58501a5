"""The template as CloudFormation would get it: translated by the pinned translator, without AWS.

`python -m local.translated_template FILE` writes it; `make check` lints that, too, because the translation has resources
that `template.yaml` does not show.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cfnlint.decode import decode_str
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

from local.account import REGION
from local.cloud import PROJECT
from local.sdk import ROOT, new_session

if TYPE_CHECKING:
    from collections.abc import Mapping

TEMPLATE: Final = PROJECT / "template.yaml"

_CODE: Final = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}


def parse(text: str) -> dict[str, Any]:
    """Return a template with YAML's short forms (`!Ref`) written out.

    Raises:
        ValueError: it is no template.
    """
    template, problems = decode_str(text)
    if problems:
        raise ValueError("\n".join(str(problem) for problem in problems))
    plain: dict[str, Any] = json.loads(json.dumps(template))
    return plain


def translate(
    template: dict[str, Any],
    parameters: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the translation of a template whose code has been uploaded.

    Args:
        template: as `parse` returns it.
        parameters: values other than the defaults.
        keys: of functions and layers by logical id, the S3 key of the code; another one is another build.
    """
    template = json.loads(json.dumps(template))
    for name, resource in template["Resources"].items():
        member = _CODE.get(resource["Type"])
        if member:
            resource["Properties"][member] = f"s3://bucket/{(keys or {}).get(name, name)}"
    translator = Translator(None, Parser(), boto_session=new_session(ROOT, REGION))
    translated: dict[str, Any] = translator.translate(
        template, dict(parameters or {}), get_managed_policy_map=dict
    )
    return translated


def main() -> None:
    Path(sys.argv[1]).write_text(json.dumps(translate(parse(TEMPLATE.read_text())), indent=1))


if __name__ == "__main__":
    main()
