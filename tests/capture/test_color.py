"""Colour correction against the library that defines it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from osgap.capture.tracking.color_correction import TERM_COUNTS, correct_color


def every_kind_of_color(random: np.random.Generator) -> np.ndarray:
    """`[H, W, 3]`: all greys, the cube's corners and edges, and random colours."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    levels = np.array([0, 1, 10, 11, 128, 254, 255], np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 3)
    colors = np.concatenate((greys, cube, random.integers(0, 256, (2401, 3), np.uint8)))
    return colors.reshape(60, 50, 3)


@pytest.mark.parametrize("terms", [3, 4, 5, 7, 8, 10, 11, 14, 16, 17, 19, 20, 22, 35])
def test_the_librarys_numbers(terms: int) -> None:
    from nersemble_data.util.color_correction import correct_color as reference

    random = np.random.default_rng(terms)
    image = every_kind_of_color(random)
    # As calibrations are: close to the identity; and one that leaves [0, 1] on both sides.
    mild = np.eye(3, terms) * 0.95 + random.normal(0, 0.03, (3, terms))
    for matrix in (mild, random.normal(0, 1, (3, terms))):
        expected = reference(image, matrix).astype(int)
        corrected = correct_color(image, matrix)
        assert corrected.dtype == np.uint8
        difference = np.abs(corrected - expected)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.02  # where truncation meets rounding
        assert len(np.unique(expected)) > 20


def test_the_list_of_lengths_is_the_librarys() -> None:
    from colour.characterisation import matrix_augmented_Cheung2004

    accepted = []
    for terms in range(1, 60):
        try:
            matrix_augmented_Cheung2004(np.full((1, 3), 0.5), terms)
        except (ValueError, AssertionError):
            continue
        accepted.append(terms)
    assert accepted == list(TERM_COUNTS)


def test_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 6\)"):
        correct_color(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 6)))


def test_a_picture_in_rows_of_another_layout() -> None:
    image = every_kind_of_color(np.random.default_rng(0))
    assert (correct_color(image[:, ::-1, ::-1], np.eye(3)) == correct_color(image, np.eye(3))[:, ::-1, ::-1]).all()


def test_it_is_fast() -> None:
    image = np.random.default_rng(0).integers(0, 256, (802, 550, 3), np.uint8)
    correct_color(image, np.eye(3, 22))  # compiled or loaded
    start = time.process_time()
    correct_color(image, np.eye(3, 22))
    assert time.process_time() - start < 0.5
