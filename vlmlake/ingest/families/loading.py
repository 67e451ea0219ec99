"""The one way to load a model, by transformers' `model_type`: with its weights for a pass, without them for a plan."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer
from transformers.utils import logging
from transformers.utils.import_utils import is_flash_attn_2_available

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.attention_rows import IMPLEMENTATIONS
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.families.llava import Llava
from vlmlake.ingest.families.paligemma import PaliGemma
from vlmlake.ingest.families.qwen2_vl import Qwen2VL
from vlmlake.ingest.model_source import ModelSource

FAMILIES: dict[str, type[Family]] = {family.model_type: family for family in (Llava, PaliGemma, Qwen2VL)}


def load_family(source: ModelSource, weights: bool = True) -> Family:
    """A model from a local folder or a hub id, ready to be captured.

    weights: without them the model has its shapes alone (on torch's `meta` device): enough to plan, read from
    config.json.

    Raises VlmlakeError if the folder is missing, incomplete or damaged, the family is not supported or lacks a part, or
    the device or the attention kernel is not there.
    """
    _require_attention(source)
    folder = Path(source.name).expanduser()
    if _looks_local(source.name) and not folder.is_dir():
        raise VlmlakeError(
            f"no model folder at {source.name}: expected what save_pretrained writes, or a hub id like org/name"
        )
    place = str(folder) if folder.is_dir() else source.name
    hub = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    try:
        with _quiet_loading():
            config = AutoConfig.from_pretrained(place, **hub)
            family = _family_of(config, source)
            attention = {"text_config": IMPLEMENTATIONS[source.attention], "vision_config": "sdpa"}
            if weights:
                model = _with_weights(place, source, attention, hub)
            else:
                with torch.device("meta"):
                    model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)  # type: ignore[no-untyped-call]
            tokenizer = AutoTokenizer.from_pretrained(place, **hub)
            image_processor = AutoImageProcessor.from_pretrained(place, **hub)  # type: ignore[no-untyped-call]
    except VlmlakeError:
        raise
    except Exception as error:  # transformers, tokenizers and safetensors each raise their own for a damaged file
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise VlmlakeError(f"cannot load the model {source.name}: {type(error).__name__}: {reason}") from error
    return family(model.eval(), tokenizer, image_processor)


def _family_of(config: Any, source: ModelSource) -> type[Family]:
    model_type = config.model_type
    if model_type not in FAMILIES:
        raise VlmlakeError(
            f"model type {model_type} is not supported: expected {', '.join(FAMILIES)}; docs/adding-a-family.md says "
            "how to add one"
        )
    family = FAMILIES[model_type]
    decoder = config.text_config.model_type
    if decoder not in family.text_model_types:
        raise VlmlakeError(
            f"{source.name} has a {decoder} decoder, {model_type} is supported with "
            f"{', '.join(family.text_model_types)}: another may norm or cap what its blocks write"
        )
    if family.image_sees_question and source.attention == "flash_attention_2":
        raise VlmlakeError(
            f"flash_attention_2 cannot attend both ways over a prompt, which {model_type} does: use sdpa"
        )
    return family


def _with_weights(place: str, source: ModelSource, attention: dict[str, str], hub: dict[str, Any]) -> Any:
    loading: Any = AutoModelForImageTextToText.from_pretrained(
        place,
        dtype=source.dtype if source.dtype == "auto" else getattr(torch, source.dtype),
        attn_implementation=attention,
        output_loading_info=True,
        weights_only=True,
        **({"device_map": source.device_map} if source.device_map else {}),
        **hub,
    )
    model, report = loading
    _require_all_weights(source.name, report)
    return model if source.device_map else _to_device(model, source.device)


def _looks_local(model: str) -> bool:
    """Whether a name can only be meant as a folder: a hub id is owner/name, and no folder here is the owner's."""
    return model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).parent.is_dir()


def _require_attention(source: ModelSource) -> None:
    if source.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise VlmlakeError("flash_attention_2 needs a CUDA device and the package flash-attn, not found here: use sdpa")


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
