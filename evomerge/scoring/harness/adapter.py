"""lm-eval's view of a living engine: its questions as token requests.

The harness owns one; lm-eval's own evaluator can be run on it too, which is how the
tests compare the two. Texts become tokens exactly as in lm-eval 0.4.13's wrappers of
transformers and vLLM, and each only once, because questions repeat for every
candidate. Knows no weights and no tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jinja2

from evomerge.core.digest import digest
from evomerge.core.survey import no_images
from evomerge.errors import CandidateError, Problem, RequestError, SpecError
from evomerge.scoring.engine import (
    Completion,
    Engine,
    GenerateRequest,
    ImageEngine,
    ImageReading,
    LoglikelihoodRequest,
)
from evomerge.scoring.harness.image_tasks import PLACEHOLDER, message_parts
from evomerge.scoring.harness.internals import (
    Instance,
    TemplateLM,
    get_rolling_token_windows,
    handle_stop_sequences,
    make_disjoint_window,
    normalize_gen_kwargs,
)
from evomerge.scoring.harness.limited import write_chat
from evomerge.scoring.images import ImagePrompt, RgbImage

DEFAULT_MAX_GEN_TOKS = 256
"""Tokens an answer may have where the task does not say (lm-eval's own default)."""

_TAKEN = {"until", "max_gen_toks", "top_p", "seed"}
_GREEDY_IGNORES = {"top_p", "top_k", "min_p", "seed"}
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "top_k": (None, 0, -1),
    "min_p": (None, 0, 0.0),
    "num_beams": (None, 1),
    "repetition_penalty": (None, 1, 1.0),
    "length_penalty": (None, 1, 1.0),
    "presence_penalty": (None, 0, 0.0),
    "frequency_penalty": (None, 0, 0.0),
    "skip_special_tokens": (None, True),
}
"""Values at which a setting changes nothing, so it may stand in a task."""


class EngineLM(TemplateLM):
    """An lm-eval model over an engine; not thread-safe."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.tokenizer = engine.tokenizer
        prefix = self.prefix_token_id
        self._prefix_text = None if prefix is None else self.tokenizer.decode(prefix)
        self._eos_text = self._end_text()
        self._tokens: dict[tuple[str, bool | None], list[int]] = {}
        self._prompts: dict[tuple[Any, ...], GenerateRequest] = {}

    @property
    def images(self) -> ImageReading:
        """What shows images to the engine's model.

        Raises:
            CheckpointError: The frame takes none, or its processor cannot be used.
            SpecError: Engines of this kind show none.
        """
        if not hasattr(type(self._engine), "images"):
            kind = self._engine.facts["kind"]
            raise SpecError([Problem("engine.kind", no_images(kind))])
        return cast(ImageEngine, self._engine).images

    @property
    def eot_token_id(self) -> int | None:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int | None:
        """The token that stands for an empty context."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return self._engine.max_length

    @property
    def max_gen_toks(self) -> int:
        """Tokens an answer may have where the task does not say."""
        return DEFAULT_MAX_GEN_TOKS

    @property
    def tokenizer_name(self) -> str:
        """Part of lm-eval's cache keys; its caches are never used here."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write messages as the model's prompt.

        A template that knows no system role is tried again without it, as in lm-eval.
        """
        return self._written(
            self.tokenizer.get_chat_template(), chat_history, add_generation_prompt
        )

    def apply_image_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write messages whose texts have a place for each image, as in lm-eval."""
        messages = [
            {**one, "content": message_parts(one["content"])} for one in chat_history
        ]
        template = self.images.processor.chat_template
        return self._written(template, messages, add_generation_prompt)

    def _written(
        self,
        template: str,
        messages: list[dict[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        ways = {
            **self.tokenizer.special_tokens_map,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return write_chat(template, messages, ways)
        except jinja2.exceptions.TemplateError:
            rest = [m for m in messages if m["role"] != "system"]
            return write_chat(template, rest, ways)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Return a text's tokens; the list is shared, do not change it.

        Special tokens are added as the tokenizer is set up to, unless the text
        already starts with the begin token (chat templates write it).
        """
        del kwargs
        key = (string, add_special_tokens)
        found = self._tokens.get(key)
        if found is None:
            ways = {}
            if add_special_tokens is not None:
                ways["add_special_tokens"] = add_special_tokens
            elif self._prefix_text and string.startswith(self._prefix_text):
                ways["add_special_tokens"] = False
            found = self._tokens[key] = list(self.tokenizer.encode(string, **ways))
        return found

    def complete(self, requests: Sequence[Instance]) -> list[Completion]:
        """Answer ``generate_until`` requests.

        Returns:
            One answer a request, in order. A request that occurs several times (as
            lm-eval repeats it) is sampled with another seed each time.
        """
        seen: dict[int, int] = {}
        prompts = []
        for request in requests:
            repeat = seen.get(id(request), 0)
            seen[id(request)] = repeat + 1
            prompts.append(self.prompt(*request.args, repeat=repeat))
        return self._engine.generate(prompts)

    def prompt(
        self,
        context: str,
        gen_kwargs: Mapping[str, Any],
        images: tuple[RgbImage, ...] = (),
        *,
        repeat: int = 0,
    ) -> GenerateRequest:
        """Turn a prompt and lm-eval's generation settings into a request, once.

        Raises:
            SpecError: A setting is one that engines do not offer.
            RequestError: Images do not fit the prompt, or the prompt with them is too
                long: its end could be cut, but not its images.
        """
        key = (context, images, repr(gen_kwargs), repeat)
        found = self._prompts.get(key)
        if found is None:
            found = self._new_prompt(context, gen_kwargs, images, repeat)
            self._prompts[key] = found
        return found

    def generate_until(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[str]:
        """Return the texts of the answers, for lm-eval's own evaluator."""
        del disable_tqdm
        return [answer.text for answer in self.complete(requests)]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of every continuation."""
        del disable_tqdm
        return super().loglikelihood(requests, disable_tqdm=True)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Return the log-probability of every text, all of its tokens.

        As in lm-eval a text longer than the model is read in windows that follow each
        other, the first after the tokenizer's begin or end token.
        """
        del disable_tqdm
        windows = [self._windows(*request.args) for request in requests]
        every = [(("", ""), *window) for text in windows for window in text]
        answers = iter(self._loglikelihood_tokens(every))
        return [math.fsum(next(answers)[0] for _ in text) for text in windows]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        rolling = get_rolling_token_windows(
            self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length - 1,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in rolling]

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = True,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        del disable_tqdm, kwargs
        answers = self._engine.loglikelihood(
            [self._pair(*request) for request in requests]
        )
        for answer in answers:
            if math.isnan(answer.logprob):
                raise CandidateError("A log-probability is not a number.")
        return [(answer.logprob, answer.is_greedy) for answer in answers]

    def _pair(
        self, texts: tuple[str, str], context: list[int], continuation: list[int]
    ) -> LoglikelihoodRequest:
        """Cut what does not fit from the left of the context, as lm-eval does."""
        spare = self.max_length - len(continuation)
        if spare < 1 or not context or not continuation:
            raise ValueError(
                f"The continuation {texts[1][:80]!r} has {len(continuation)} tokens; "
                f"1 to {self.max_length - 1} can be scored after a context."
            )
        return LoglikelihoodRequest(tuple(context[-spare:]), tuple(continuation))

    def _new_prompt(
        self,
        context: str,
        gen_kwargs: Mapping[str, Any],
        images: tuple[RgbImage, ...],
        repeat: int,
    ) -> GenerateRequest:
        ways, temperature = _sampling(gen_kwargs)
        stop = handle_stop_sequences(ways.pop("until"), eos=self._eos_text)
        max_tokens = ways.pop("max_gen_toks")
        room = self.max_length - max_tokens
        if room < 1 or max_tokens < 1:
            raise _wrong(
                f"max_gen_toks is {max_tokens}, but the engine holds "
                f"{self.max_length} tokens with the prompt; lower max_gen_toks or "
                "raise engine.max_model_len."
            )
        is_greedy = temperature == 0.0
        names = [[image.digest for image in images]] if images else []
        seed = digest([context, ways.get("seed") or 0, repeat, *names])
        shown = self._shown(context, images)
        return GenerateRequest(
            prompt=tuple(self.tok_encode(context)[-room:])
            if shown is None
            else self._tokens_of(shown, room),
            shown=shown,
            max_tokens=max_tokens,
            stop=tuple(text for text in stop if text),
            temperature=temperature,
            top_p=1.0 if is_greedy else float(ways.get("top_p") or 1.0),
            seed=0 if is_greedy else int(seed[:8], 16) >> 1,
        )

    def _shown(self, text: str, images: tuple[RgbImage, ...]) -> ImagePrompt | None:
        if not images:
            return None
        token = self.images.processor.image_token
        return ImagePrompt(text.replace(PLACEHOLDER, token), images)

    def _tokens_of(self, prompt: ImagePrompt, room: int) -> tuple[int, ...]:
        tokens: tuple[int, ...] = self.images.processor.encode(prompt).tokens
        if len(tokens) > room:
            raise RequestError(
                f"the prompt has {len(tokens)} tokens with its images, and the engine "
                f"has room for {room} before the answer; raise engine.max_model_len, "
                "lower max_gen_toks, or make the images smaller"
            )
        return tokens

    def _end_text(self) -> str:
        end = self.eot_token_id
        text = "" if end is None else self.tokenizer.decode(end)
        return text or self.tokenizer.eos_token or ""


def check_generation(gen_kwargs: Mapping[str, Any]) -> None:
    """Look through a task's generation settings, without an engine.

    Raises:
        SpecError: A setting is one that engines do not offer.
        TypeError: A setting has a value of another kind.
        ValueError: Likewise.
    """
    ways, _ = _sampling(gen_kwargs)
    handle_stop_sequences(ways["until"], eos="")


def _sampling(gen_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
    """Return lm-eval's settings, all of them known here, and the temperature."""
    ways = dict(normalize_gen_kwargs(dict(gen_kwargs), DEFAULT_MAX_GEN_TOKS))
    temperature = _temperature(ways, given="temperature" in gen_kwargs)
    _refuse_unknown(ways, is_greedy=temperature == 0.0)
    return ways, temperature


def _temperature(ways: dict[str, Any], *, given: bool) -> float:
    """Read the sampler: 0 is greedy; sampling without a temperature is at 1."""
    do_sample = ways.pop("do_sample")
    temperature = float(ways.pop("temperature", 0.0))
    if do_sample and not given:
        return 1.0
    return temperature if do_sample else 0.0


def _refuse_unknown(ways: Mapping[str, Any], *, is_greedy: bool) -> None:
    for name, value in ways.items():
        if name in _TAKEN or (is_greedy and name in _GREEDY_IGNORES):
            continue
        if name in _NEUTRAL and value in _NEUTRAL[name]:
            continue
        raise _wrong(
            f"generation setting {name}: {value!r} is not offered; known are until, "
            "max_gen_toks, do_sample, temperature, top_p and seed."
        )


def _wrong(message: str) -> SpecError:
    return SpecError([Problem("gen_kwargs", message)])
