"""Settings of the capture stages."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nersemble_data.constants import SERIALS
from pydantic import ValidationError

from osgap.capture.config import CaptureConfig, SourceFrame, SubjectEntry, short_name


def message(**values: object) -> str:
    with pytest.raises(ValidationError) as caught:
        CaptureConfig.model_validate(values)
    return caught.value.errors()[0]["msg"]


def test_defaults_are_the_papers() -> None:
    config = CaptureConfig()
    assert sorted(short_name(name) for name in config.sequences) == [
        "EMO-1", "EMO-2", "EMO-3", "EMO-4", "EXP-2", "EXP-3", "EXP-4", "EXP-5", "EXP-8", "EXP-9",
    ]  # fmt: skip
    assert config.serials == SERIALS
    assert config.serials[8] == config.held_out_camera


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"sequences": ["EMO-1"]}, "did you mean 'EMO-1-shout+laugh'"),
        ({"sequences": ["EXP-2-eye"]}, "did you mean 'EXP-2-eyes'"),
        ({"sequences": ["BACKGROUND"]}, "'BACKGROUND' is no NeRSemble sequence"),
        ({"sequences": ["HAIR", "HAIR"]}, "'HAIR' stands more than once"),
        ({"sequences": []}, "the list is empty"),
        ({"serials": ["222200073"]}, "'222200073' is no camera serial; known are 222200042, "),
        ({"tracking": "data/{person}_*"}, "'data/{person}_*' cannot be filled in"),
        ({"tracking": "data/{subject.upper}"}, "asks for {subject.upper}"),
        ({"tracking": "  "}, "the path is empty"),
    ],
)
def test_wrong_values_are_explained(values: dict[str, object], expected: str) -> None:
    assert expected in message(**values)


def test_bare_numbers_are_serials() -> None:
    config = CaptureConfig.model_validate({"serials": [222200037], "held_out_camera": 222200037})
    assert (config.serials, config.held_out_camera) == (["222200037"], "222200037")
    assert SourceFrame.model_validate({"sequence": "EXP-2", "timestep": 3, "camera": 222200037}).camera == "222200037"


def test_an_entry_validates_as_the_section_does() -> None:
    with pytest.raises(ValidationError, match="did you mean 'EXP-2-eyes'"):
        SubjectEntry(sequences=["EXP-2"])
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        SubjectEntry(participant=-1)


def test_the_url_is_never_shown() -> None:
    config = CaptureConfig(url=" https://host/s3cret ")
    assert config.url == "https://host/s3cret"
    shown = [repr(config), str(config), str(config.model_dump()), config.model_dump_json()]
    with pytest.raises(ValidationError) as caught:
        CaptureConfig.model_validate({"url": ["https://host/s3cret"]})
    assert "s3cret" not in "".join(shown) + caught.value.errors()[0]["msg"]


def test_importing_the_config_is_light() -> None:
    heavy = "{'torch', 'pandas', 'numpy', 'h5py', 'av'}"
    code = f"import sys, osgap.capture.config; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
