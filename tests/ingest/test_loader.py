"""What a pass reads is what it surveyed."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from tests.ingest.jobs import job_of
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import extract


def test_an_image_replaced_during_a_pass_stops_it(tiny_llava, scenes, tmp_path, monkeypatch):
    """By one of the same size, which no grid tells from it."""
    data = shutil.copytree(scenes, tmp_path / "scenes")
    real, replaced = extract.survey_job, []

    def then_replace(job):
        survey = real(job)
        path = survey.examples[0].source.path
        with Image.open(path) as image:
            size = image.size
        Image.new("RGB", size, (1, 2, 3)).save(path)
        replaced.append(path)
        return survey

    monkeypatch.setattr(extract, "survey_job", then_replace)
    job = job_of(tiny_llava, f"pope:{data}", tmp_path / "lake")
    with pytest.raises(VlmlakeError, match="changed since the pass began") as refused:
        extract.extract(job)
    assert str(replaced[0]) in str(refused.value)
    assert open_lake(job.lake).runs == ()


def test_gray_images_are_made_once_for_each_size(tiny_llava, tmp_path, monkeypatch):
    from vlmlake.ingest.families.base import Family

    made, real = [], Family.blank_inputs
    monkeypatch.setattr(Family, "blank_inputs", lambda self, size: made.append(size) or real(self, size))
    job = job_of(tiny_llava, "shapes:4@3", tmp_path, plan="readout", blank=True, batch_size=1000)
    extract.extract(job)
    # of each one for its grid, and one for the pass
    assert len(made) <= 2 * len(set(made))
