"""The zoo's tokenizer: byte-level BPE, every digit a token, trained on the skills.

It puts ``<s>`` in front of every text itself, so that a plain call, an engine and
training agree on what the model sees; the chat template writes ``<s>`` out, as usual,
and is to be encoded without special tokens.
"""

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from evomerge.zoo.skills import SKILLS, draw

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
)

_WORDS_AND_DIGITS = r"[0-9]|\n| ?[A-Za-z]+|[ぁ-んァ-ヶー]+|[一-龥]| ?[^\sA-Za-z0-9]|\s"
_CORPUS_PER_SKILL = 600
_VOCAB_CAP = 640  # merges run out long before


@cache
def build_tokenizer() -> Tokenizer:
    """Train the tokenizer; it is the same for every recipe and seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_AND_DIGITS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [
        f"{question.text}\n{question.answer}"
        for name in SKILLS
        for question in draw(name, _CORPUS_PER_SKILL, seed=0)
    ]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCAB_CAP,
        special_tokens=[PAD, BOS, EOS, UNK],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, BOS_ID)],
    )
    return tokenizer
