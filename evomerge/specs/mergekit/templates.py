"""Chat templates that a mergekit file asks for: the usual one, a known one, or text.

The known ones give the text that mergekit's of the same name give.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from evomerge.checkpoints import Model
from evomerge.checkpoints.tokenizer_notes import chat_templates
from evomerge.specs.reading.mistakes import Mistakes

AUTO = "auto"
_SHORTEST = 20
"""Characters of a template; what is shorter is a word."""

KNOWN: Mapping[str, str] = {
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}"
        "{{ (message.content | trim) ~ '<|eot_id|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% for message in messages %}"
        "{% if loop.first and message.role != 'system' %}"
        "{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}"
        "{{ '    [|' ~ message.role ~ '|]' ~ message.content ~ '\\n' }}"
        "{{ '        ' ~ ('' if message.role == 'user' else '[|endofturn|]') }}"
        "{{ '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set system = messages[0].role == 'system' %}"
        "{% for message in (messages[1:] if system else messages) %}"
        "{% if message.role not in ('user', 'assistant') "
        "or (message.role == 'user') != (loop.index0 is even) %}"
        "{{ raise_exception('After a system message that may be left out, users and "
        "assistants take turns.') }}{% endif %}"
        "{% if message.role == 'user' %}{{ ' [INST] ' }}"
        "{% if loop.first and system %}{{ messages[0].content ~ '\\n\\n' }}{% endif %}"
        "{{ message.content ~ ' [/INST]' }}"
        "{% else %}{{ ' ' ~ message.content ~ eos_token }}{% endif %}{% endfor %}"
    ),
    "alpaca": (
        "{% set said = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{{ (said[-1].content | trim if said else '') ~ '\\n\\n' }}"
        "{% for message in messages %}"
        "{% set title = {'user': 'Instruction', 'assistant': 'Response', "
        "'user_context': 'Input'}.get(message.role) %}"
        "{% if title %}{{ '### ' ~ title ~ ':\\n' ~ (message.content | trim) }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt and messages[-1].role != 'assistant' %}"
        "{{ '### Response:\\n' }}{% endif %}"
    ),
}
"""Name to template; the spaces are mergekit's."""


def read_template(
    written: str | None, models: Mapping[str, Model], mistakes: Mistakes
) -> str | None:
    """Return the chat template of the result; None if it is its tokenizer's.

    Args:
        written: As the file has it.
        models: Every model it names, in its order.
        mistakes: Where to note what is wrong.
    """
    if not written:
        return None
    if written == AUTO:
        usual = (chat_templates(m.path).get("default", "") for m in models.values())
        found = Counter(text.strip() for text in usual if text.strip())
        if not found:
            mistakes.warn(
                "chat_template", "changes nothing: no model has a chat template."
            )
        return max(found, key=lambda text: found[text], default=None)
    if written in KNOWN:
        return KNOWN[written]
    if len(written) < _SHORTEST or "{" not in written:
        mistakes.add(
            "chat_template",
            f"expected {AUTO}, {', '.join(KNOWN)}, or a template in Jinja, got "
            f"{written!r}.",
        )
        return None
    return written
