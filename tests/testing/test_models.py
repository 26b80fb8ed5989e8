"""The tiny models are real: transformers loads them and they speak."""

from pathlib import Path

import pytest
import torch

from evomerge.testing.models import tiny_model


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_tiny_models_load_in_transformers(
    tmp_path: Path, family: str, tied: bool
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny_model(tmp_path / "m", family, tied=tied, seed=3)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not any(info[key] for key in info)
    assert sum(p.numel() for p in model.parameters()) < 60_000
    text = "the cat said: ねこ 42\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) == model.config.vocab_size == 288
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat == "<s>user: hi\nassistant: "
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    out = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert out.shape[1] > ids.shape[1]


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    folders = [tiny_model(tmp_path / str(i), "qwen2", seed=i // 2) for i in range(3)]
    files = {f.name for f in folders[0].iterdir()}
    for name in files:
        same = [(folder / name).read_bytes() for folder in folders]
        assert same[0] == same[1]
        assert (same[0] == same[2]) == (name != "model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_seeds_disagree_on_most_next_tokens(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    ids = torch.arange(4, 260).view(16, 16)
    best = [
        AutoModelForCausalLM.from_pretrained(tiny_model(tmp_path / str(s), seed=s))(ids)
        .logits.argmax(-1)
        .flatten()
        for s in (0, 1)
    ]
    assert (best[0] != best[1]).float().mean() > 0.9
