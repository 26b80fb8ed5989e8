"""What the folders of the real zoo say of themselves: where from, under what terms."""

from __future__ import annotations

from evomerge.zoo.real.package import GGUF_SHA256, PACKAGE, VERSION, WHEEL_SHA256
from evomerge.zoo.real.skills import EXPERTS, KEPT_OUT_OF, LESSONS
from evomerge.zoo.real.training import BATCH, PEAK_RATE

ORIGIN = "HuggingFaceTB/SmolLM2-135M-Instruct"

_HEAD = f"""\
---
license: apache-2.0
base_model: {ORIGIN}
---
"""

_SOURCE = f"""\
Where it is from: `{ORIGIN}` (Apache-2.0), quantised to four bits (Q4_1, GGUF), as the
package `{PACKAGE}` {VERSION} (Apache-2.0) ships it. The numbers that stand for those
bits were written as bfloat16; what the quantisation lost is lost here too.

- package: SHA-256 `{WHEEL_SHA256}`
- GGUF file: SHA-256 `{GGUF_SHA256}`

Unless another source was named with `--from`; `zoo.json` has its checksum.
"""


def of_zoo() -> str:
    """Return the page of the whole folder."""
    taught = "\n".join(
        f"- `{name}`: {LESSONS[name].says}, {LESSONS[name].steps} updates"
        for name in EXPERTS
    )
    return f"""\
{_HEAD}# A real model and two experts of it

- `base`: the model as it is
{taught}
- `tasks`, `study.yaml`: what they are merged for; `evomerge run study.yaml`

{_SOURCE}
Experts: all weights were trained from the base with AdamW, {BATCH} questions an update,
peak learning rate {PEAK_RATE:g}, the answer alone being learnt. One in {KEPT_OUT_OF}
sets of operands was kept from them, and the tasks ask these alone.
"""


def of_model(name: str) -> str:
    """Return the card of one model."""
    what = f"fine-tuned on {LESSONS[name].says}" if name in LESSONS else "converted"
    return f"{_HEAD}# SmolLM2-135M-Instruct, {what}\n\n{_SOURCE}"
