"""How much of the function's 512 MB a list with all its contacts needs, read in its own process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from local.digishare.model import PersonalAccessToken
from tests.programs import run_program

if TYPE_CHECKING:
    from local.fake_digishare import FakeDigishare

MEMORY_MB = 512  # CampaignsFunction in template.yaml
PROGRAM = """
import re, sys
from pathlib import Path
from functions.campaigns.adapters.campaigns_api import CampaignsApi
from functions.campaigns.walk import Walk
from lambda_support.upstream_http import new_session

class Tokens:
    token = staticmethod(lambda: "token")

walked = Walk(CampaignsApi(new_session(sys.argv[2]), sys.argv[1], Tokens(), lambda: 240.0)).read()
# Not getrusage: its peak includes that of the process that started this one.
peak_kb = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(len(walked.statuses), walked.is_complete, peak_kb // 1024)
"""


def test_1_000_campaigns_with_1_000_contacts_each_fit_with_room_to_spare(digishare: FakeDigishare) -> None:
    digishare.set_personal_access_tokens([PersonalAccessToken("token")])
    digishare.replace_campaigns(1000)
    digishare.configure(contacts_per_campaign=1000)

    arguments = (f"{digishare.url}/v1", digishare.ca_file)
    ended = run_program(sys.executable, "-c", PROGRAM, *arguments, timeout_s=120)

    count, is_complete, peak_mb = ended.stdout.split()
    assert (count, is_complete) == ("1000", "True")
    assert int(peak_mb) < MEMORY_MB // 2
