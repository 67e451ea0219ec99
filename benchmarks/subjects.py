"""What is measured: a model and its questions in a folder, so that another process can measure the same ones."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import models
import torch
from questions import QUESTIONS_AN_IMAGE, write_images, write_questions

from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import survey_job
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.model_source import ModelSource
from vlmlake.ingest.work import Work, plan_work
from vlmlake.store_schema.capture_plan import DEFAULT_PLAN, CapturePlan, read_plan

USUAL = read_plan(DEFAULT_PLAN)


@dataclass(frozen=True)
class Subject:
    """name, shape: of models.BUILDERS and its shapes (models.SHAPES). folder: for questions and lakes.
    saved: whether the model lies in the folder, as a checkpoint that a pass loads by itself; else it is built anew.
    """

    name: str
    shape: str
    device: str
    dtype: str
    folder: str
    saved: bool

    @classmethod
    def prepare(cls, name: str, shape: str, device: str, dtype: str, folder: Path, images: int, saved: bool) -> Subject:
        """Write the images, and the checkpoint where it is to be saved."""
        subject = cls(name, shape, device, dtype, str(folder), saved)
        folder.mkdir()
        write_images(subject.images, images, subject.pixels)
        if saved:
            models.save(subject.build(), folder / "model")
        return subject

    @property
    def title(self) -> str:
        return self._shape.title

    @property
    def pixels(self) -> tuple[int, int]:
        """Width and height of the images: COCO's commonest where the model sees as much as an image has."""
        return (640, 480) if (self.name, self.shape) == ("qwen2_vl", "published") else (336, 336)

    @cached_property
    def family(self) -> Family:
        return load_family(self._source) if self.saved else self.build()

    def build(self) -> Family:
        return models.build(self.name, self._shape, self.device, getattr(torch, self.dtype))

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return Path(self.folder) / "images"

    def job(self, images: int, lake: str, batch: int, decoding: Decoding, plan: CapturePlan = USUAL) -> Job:
        """The questions about the first `images` images; lake: its name inside the folder."""
        folder = Path(self.folder)
        file = write_questions(folder / f"noise{images}_pope_random.json", images)
        return Job(
            self._source,
            (f"pope:{file}",),
            str(folder / lake),
            images=str(self.images),
            plan=plan,
            decoding=decoding,
            batch_size=batch,
        )

    def work(self, job: Job) -> Work:
        survey = survey_job(job)
        return plan_work(job, self.family, survey.examples, survey.facts, model_identity(job.model, self.family.model))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Subject:
        return cls(**json.loads(text))

    @property
    def _shape(self) -> models.Shape:
        return models.SHAPES[self.shape][self.name]

    @property
    def _source(self) -> ModelSource:
        where = str(Path(self.folder) / "model") if self.saved else f"random/{self.name}-{self.shape}"
        return ModelSource(where, dtype=self.dtype, device=self.device)


def examples_of(images: int) -> int:
    return images * QUESTIONS_AN_IMAGE
