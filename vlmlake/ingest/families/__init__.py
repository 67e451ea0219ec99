"""Model families by transformers' `model_type`, and the one way to load a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.attention_rows import IMPLEMENTATION
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.families.llava import Llava

FAMILIES: dict[str, type[Family]] = {family.model_type: family for family in (Llava,)}


def load_family(model: str, device: str = "cpu") -> Family:
    """Load a model from a local folder or a hub id, in the dtype of its checkpoint, ready to be captured.

    Raises VlmlakeError if the folder is missing or incomplete, or the family is not supported.
    """
    looks_local = model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model
    folder = Path(model).expanduser()
    if looks_local and not folder.is_dir():
        raise VlmlakeError(
            f"no model folder at {model}: expected what save_pretrained writes, or a hub id like org/name"
        )
    source = str(folder) if folder.is_dir() else model
    try:
        config = AutoConfig.from_pretrained(source)
        if config.model_type not in FAMILIES:
            raise VlmlakeError(f"model type {config.model_type} is not supported: expected {', '.join(FAMILIES)}")
        with _quiet_loading():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                source, dtype="auto", attn_implementation={"text_config": IMPLEMENTATION, "vision_config": "sdpa"}
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
        image_processor = AutoImageProcessor.from_pretrained(source)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise VlmlakeError(f"cannot load the model {model}: {reason}") from error
    try:
        loaded = loaded.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise VlmlakeError(f"cannot run on {device}: {str(error).splitlines()[0]}") from error
    return FAMILIES[config.model_type](loaded.eval(), tokenizer, image_processor)


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without transformers' own progress bars, which would cut through ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


__all__ = ["Family", "ImageInputs", "Prompt", "load_family"]
