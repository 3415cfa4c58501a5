"""`make promote FROM=STACK`: deploys the same artefacts that another stack runs, with this stage's parameters.

Nothing is built: the template that CloudFormation has of the other stack names the code in S3 that was uploaded for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import botocore.exceptions

from local.build import SAM
from local.locks import PROJECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class PromotionError(Exception):
    """The other stack's template cannot be read, or names no uploaded code; the text says what to do."""


def template_of(cloudformation: Any, stack_name: str) -> str:
    """Return the template that a stack was deployed with, as it was before its translation.

    Raises:
        PromotionError: there is none, or it names no uploaded code.
    """
    try:
        body = cloudformation.get_template(StackName=stack_name, TemplateStage="Original")["TemplateBody"]
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise PromotionError(f"the template of {stack_name} cannot be read: {error}") from None
    text = body if isinstance(body, str) else json.dumps(body)
    if "AWS::Serverless" not in text or "s3://" not in text:
        raise PromotionError(
            f"{stack_name} was not deployed by `make deploy`: deploy it, and promote it then"
        )
    return text


def deploy(template: Path, stage: str, arguments: Sequence[str]) -> int:
    """Run `sam deploy` with this stage of samconfig.toml; return its exit code."""
    config = ["--config-file", str(PROJECT / "samconfig.toml"), "--config-env", stage]
    command = [SAM, "deploy", "--template-file", str(template), *config, *arguments]
    return subprocess.run(command, env={**os.environ, "SAM_CLI_TELEMETRY": "0"}, check=False).returncode


def _cloudformation() -> Any:
    # boto3 itself reads AWS_DEFAULT_REGION alone.
    return boto3.client("cloudformation", region_name=os.environ.get("AWS_REGION"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="local.promote", description=__doc__.partition("\n")[0])
    parser.add_argument("stack", help="the stack that runs what is to be deployed")
    parser.add_argument("--stage", default="default", help="the part of samconfig.toml to deploy with")
    options, arguments = parser.parse_known_args()
    template = PROJECT / ".local/promoted.yaml"
    try:
        template.write_text(template_of(_cloudformation(), options.stack))
    except PromotionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return deploy(template, options.stage, arguments)


if __name__ == "__main__":
    sys.exit(main())
