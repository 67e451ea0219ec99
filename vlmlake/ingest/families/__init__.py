"""Model families by transformers' `model_type`, and the one way to load a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.attention_rows import IMPLEMENTATION
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.families.llava import Llava

FAMILIES: dict[str, type[Family]] = {family.model_type: family for family in (Llava,)}


def load_family(model: str, device: str = "cpu") -> Family:
    """Load a model from a local folder or a hub id, in the dtype of its checkpoint, ready to be captured.

    Raises VlmlakeError if the folder is missing, incomplete or damaged, or the family is not supported.
    """
    folder = Path(model).expanduser()
    if _looks_local(model) and not folder.is_dir():
        raise VlmlakeError(
            f"no model folder at {model}: expected what save_pretrained writes, or a hub id like org/name"
        )
    source = str(folder) if folder.is_dir() else model
    try:
        with _quiet_loading():
            config = AutoConfig.from_pretrained(source)
            if config.model_type not in FAMILIES:
                raise VlmlakeError(f"model type {config.model_type} is not supported: expected {', '.join(FAMILIES)}")
            loading: Any = AutoModelForImageTextToText.from_pretrained(
                source,
                dtype="auto",
                attn_implementation={"text_config": IMPLEMENTATION, "vision_config": "sdpa"},
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(source)
            image_processor = AutoImageProcessor.from_pretrained(source)  # type: ignore[no-untyped-call]
    except VlmlakeError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own for a damaged file
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise VlmlakeError(f"cannot load the model {model}: {type(error).__name__}: {reason}") from error
    loaded, report = loading
    _require_all_weights(model, report)
    return FAMILIES[config.model_type](_to_device(loaded, device).eval(), tokenizer, image_processor)


def _looks_local(model: str) -> bool:
    """Whether a name can only be meant as a folder: a hub id is owner/name, and no folder here is the owner's."""
    return model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).parent.is_dir()


def _require_all_weights(model: str, report: Any) -> None:
    """transformers fills in what a checkpoint lacks with random numbers; a lake of those would tell nothing."""
    absent = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if absent:
        more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
        raise VlmlakeError(f"the checkpoint {model} lacks the weights {', '.join(absent[:5])}{more}")


def _to_device(loaded: Any, device: str) -> Any:
    try:
        place = torch.device(device)
        if place.type == "meta":
            raise VlmlakeError("cannot run on meta: that device computes nothing")
        return loaded.to(place)
    except (RuntimeError, AssertionError) as error:
        raise VlmlakeError(f"cannot run on {device}: {str(error).splitlines()[0]}") from error


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without the libraries' own progress bars and warnings, which would cut through ours; errors are still raised."""
    shown, levels = logging.is_progress_bar_enabled(), (logging.get_verbosity(), hub_logging.get_verbosity())
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(levels[0])
        hub_logging.set_verbosity(levels[1])
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


__all__ = ["Family", "ImageInputs", "Prompt", "load_family"]
