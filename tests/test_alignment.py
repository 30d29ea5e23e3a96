"""The alignment check: a right section passes; a turned, shifted, rescaled or foreign one is refused with numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from histomix.common.geometry.pitch import nearest_distances, nearest_pitch, spot_pitch
from histomix.errors import AlignmentError
from histomix.spots import Section, check_alignment, read_cohort

PITCH_PX, MPP = 20.0, 10.0
WIDTH, HEIGHT = 700, 760


@dataclass(frozen=True)
class Mask:
    """Stands in for a TissueMask at the scale of the slide."""

    mask: np.ndarray

    def contains(self, xy_px: np.ndarray, slide_mpp: float) -> np.ndarray:
        x, y = np.floor(xy_px).astype(int).T
        height, width = self.mask.shape
        inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
        return inside & self.mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]


def tissue(centre: tuple[float, float] = (380, 300)) -> np.ndarray:
    """An outline that no flip or turn maps on itself: an ellipse with a nose, off the centre."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x, y = x - centre[0], y - centre[1]
    return ((x / 130) ** 2 + (y / 210) ** 2 < 1) | ((abs(x - 120) < 90) & (abs(y + 100) < 50))


def section_on(mask: np.ndarray, jitter: float = 0.08, **changes: object) -> Section:
    """Legacy array of 33 x 35 positions; the spots on tissue are selected, as its users do."""
    array = np.stack(np.meshgrid(np.arange(1, 34), np.arange(1, 36)), axis=-1).reshape(-1, 2)
    shifts = np.random.default_rng(0).normal(0, jitter, array.shape)
    positions = (array + shifts) * PITCH_PX
    kept = Mask(mask).contains(positions, MPP)
    obs = pd.DataFrame(array[kept] * 1.0, columns=["array_x", "array_y"], index=[f"{x}x{y}" for x, y in array[kept]])
    adata = AnnData(obs=obs, obsm={"spatial": positions[kept]})
    values = {
        "name": "S",
        "donor": "P",
        "adata": adata,
        "mpp": MPP,
        "spot_pitch_um": 200.0,
        "where": "sheet.csv, row 2",
    }
    return Section(**(values | changes))  # type: ignore[arg-type]


def moved(section: Section, xy_px: np.ndarray) -> Section:
    adata = section.adata.copy()
    adata.obsm["spatial"] = xy_px
    return dataclasses.replace(section, adata=adata)


def slide_of(mask: np.ndarray, mpp: float = MPP) -> SimpleNamespace:
    return SimpleNamespace(width_px=mask.shape[1], height_px=mask.shape[0], mpp=mpp)


def check(section: Section, mask: np.ndarray, mpp: float = MPP):
    return check_alignment(section, slide_of(mask, mpp), Mask(mask))  # type: ignore[arg-type]


def test_a_right_section_passes() -> None:
    mask = tissue()
    found = check(section_on(mask), mask)
    assert found.ok and found.require() is found
    assert found.on_tissue == 1.0 and found.outside == 0.0 and found.overlap > 0.8
    assert found.pitch_um == pytest.approx(200, rel=0.01) and found.expected_pitch_um == 200
    assert len(found.alternatives) == 8 and found.alternatives.keys() == found.overlaps.keys()
    assert found.notes == ()


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("flipped left-right", lambda m: m[:, ::-1]),
        ("flipped top-bottom", lambda m: m[::-1]),
        ("rotated by 180 degrees", lambda m: m[::-1, ::-1]),
        ("x and y swapped", lambda m: m.T),
        ("rotated by 90 degrees", lambda m: np.rot90(m, -1)),
        ("rotated by 270 degrees", lambda m: np.rot90(m, 1)),
        ("x and y swapped and rotated by 180 degrees", lambda m: m.T[::-1, ::-1]),
    ],
)
def test_a_turned_image_is_refused_and_the_turn_named(name: str, turn) -> None:  # type: ignore[no-untyped-def]
    mask = tissue()
    section = section_on(mask)
    found = check(section, turn(mask))
    assert not found.ok
    best = max(found.overlaps, key=found.overlaps.__getitem__)
    assert best == name and found.alternatives[best] > 0.98 > found.on_tissue
    with pytest.raises(AlignmentError, match=f"if {name}") as caught:
        found.require()
    assert f"{found.on_tissue:.0%}" in str(caught.value) and f"{found.overlap:.2f}" in str(caught.value)
    assert str(caught.value).startswith("sheet.csv, row 2: the spots of section 'S' do not fit its image")


@pytest.mark.parametrize("steps", [(1, 1), (3, 0), (0, -3), (-2, 2), (-5, 4)])
def test_a_shift_is_refused_and_measured(steps: tuple[int, int]) -> None:
    mask = tissue()
    section = section_on(mask)
    found = check(moved(section, section.spots_px + PITCH_PX * np.array(steps)), mask)
    name = next(name for name in found.overlaps if name.startswith("shifted"))
    back = [float(part) for part in name.removeprefix("shifted by ").removesuffix(" px").split(", ")]
    assert back == pytest.approx(-PITCH_PX * np.array(steps), abs=2)
    assert not found.ok and any(name in problem for problem in found.problems)


def test_half_a_pitch_passes() -> None:
    mask = tissue()
    section = section_on(mask)
    assert check(moved(section, section.spots_px + 0.5 * PITCH_PX), mask).ok


def test_one_pitch_is_noted_and_refused_only_where_many_spots_lie_off_tissue() -> None:
    mask = tissue()
    section = section_on(mask)
    shifted = moved(section, section.spots_px + np.array([PITCH_PX, 0]))
    whole = check(shifted, mask)
    assert whole.ok and any("would rise from" in note for note in whole.notes)
    pale = mask & ~np.kron(np.random.default_rng(0).random((76, 70)) < 0.2, np.ones((10, 10), bool))
    assert check(section, pale).ok
    found = check(shifted, pale)
    assert found.on_tissue < 0.8 and max(found.overlaps.values()) - found.overlap < 0.12
    assert any("if shifted by" in problem for problem in found.problems)


@pytest.mark.parametrize(("nose", "refused"), [(60, False), (70, True)])
def test_a_flip_needs_less_than_a_shift(nose: int, refused: bool) -> None:
    """A tissue that is nearly its own mirror image: the flip gains less than a shift must."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] - np.array([HEIGHT / 2, WIDTH / 2])[:, None, None]
    mask = ((x / 180) ** 2 + (y / 260) ** 2 < 1) | ((abs(x - 170) < nose) & (abs(y + 60) < 90))
    found = check(section_on(mask), mask[:, ::-1])
    gain = max(found.overlaps.values()) - found.overlap
    assert (0.08 if refused else 0.06) < gain < 0.12
    assert found.ok is not refused
    told = found.problems if refused else found.notes
    assert any("flipped left-right" in text for text in told)


@pytest.mark.parametrize(("width_px", "outside", "refused"), [(580, 1, False), (550, 10, True)])
def test_a_few_spots_off_the_image_are_noted_and_more_are_refused(width_px: int, outside: int, refused: bool) -> None:
    mask = tissue()
    section = section_on(mask)
    found = check(section, mask[:, :width_px])
    assert found.outside * found.spots == pytest.approx(outside)
    assert found.ok is not refused
    told = found.problems if refused else found.notes
    assert any(f"{outside} of {found.spots} spots" in text and "lie outside the image" in text for text in told)


def test_the_image_of_another_section() -> None:
    other = tissue((180, 560))
    found = check(section_on(tissue()), other)
    assert not found.ok and found.on_tissue < 0.6
    assert any(f"only {found.on_tissue:.0%} of the spots lie on tissue" in problem for problem in found.problems)


def test_tissue_everywhere_cannot_tell() -> None:
    found = check(section_on(tissue()), np.ones((HEIGHT, WIDTH), dtype=bool))
    assert found.ok and any("cannot be told" in note for note in found.notes)


def test_a_part_of_the_tissue_may_be_chosen() -> None:
    mask = tissue()
    section = section_on(mask)
    chosen = section.adata[(section.spots_px[:, 1] < 330)].copy()
    assert check(dataclasses.replace(section, adata=chosen), mask).ok


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_a_wrong_mpp_names_the_one_that_fits(factor: float) -> None:
    mask = tissue()
    with pytest.raises(AlignmentError) as caught:
        check(section_on(mask), mask, mpp=MPP * factor).require()
    text = str(caught.value)
    assert f"{200 * factor:.0f} um at {MPP * factor:g} um/px, but 200 um is expected: an mpp of 10 would fit" in text


def test_spots_of_an_image_at_another_size() -> None:
    mask = tissue()
    section = section_on(mask)
    found = check(moved(section, section.spots_px * 3), mask)
    assert found.outside > 0.5
    assert any("lie outside the image of 700 x 760 px" in problem for problem in found.problems)
    assert any("60 px apart, which is 600 um" in problem for problem in found.problems)


def test_mixed_up_rows_are_found() -> None:
    mask = tissue()
    section = section_on(mask)
    shuffled = np.random.default_rng(1).permutation(section.spots_px)
    found = check(moved(section, shuffled), mask)
    assert found.on_tissue == 1.0
    assert any("array coordinates" in problem for problem in found.problems)


def test_without_a_known_pitch_mpp_is_not_checked() -> None:
    mask = tissue()
    found = check(section_on(mask, spot_pitch_um=None), mask, mpp=20)
    assert found.ok and any("not checked against the pitch" in note for note in found.notes)


def test_few_spots() -> None:
    mask = tissue()
    section = section_on(mask)
    found = check(dataclasses.replace(section, adata=section.adata[:2].copy()), mask)
    assert found.ok and found.pitch_um is None and np.isnan(found.overlap)
    assert any("too few spots" in note for note in found.notes)


def test_pitch_of_jittered_spots() -> None:
    section = section_on(tissue(), jitter=0.08)
    array = section.adata.obs.to_numpy()
    nearest = [np.sort(np.linalg.norm(section.spots_px - place, axis=1))[1] for place in section.spots_px]
    assert np.median(nearest) < 0.95 * PITCH_PX  # what a plain nearest neighbour would say
    by_array, by_neighbours = spot_pitch(section.spots_px, array), spot_pitch(section.spots_px)
    assert by_array is not None and by_neighbours is not None
    assert (by_array.source, by_neighbours.source) == ("array", "neighbours")
    assert by_array.px == pytest.approx(PITCH_PX, rel=0.01)
    assert by_array.residual == pytest.approx(0.08 * np.sqrt(2), rel=0.1) and np.isnan(by_neighbours.residual)
    assert by_neighbours.px == pytest.approx(PITCH_PX, rel=0.03)
    angle = np.deg2rad(30)
    turned = section.spots_px @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turned_pitch = spot_pitch(turned, array)
    assert turned_pitch is not None and turned_pitch.px == pytest.approx(by_array.px)


def test_pitch_of_other_grids() -> None:
    rows, columns = np.mgrid[:20, :20]
    hexagons = np.column_stack([(columns + 0.5 * (rows % 2)).ravel(), rows.ravel() * np.sqrt(0.75)]) * 30
    found = spot_pitch(hexagons)
    assert found is not None and found.px == pytest.approx(30)
    chess = np.array([(x, y) for x in range(20) for y in range(20) if (x + y) % 2 == 0], dtype=float)
    found = spot_pitch(chess * 25, chess)
    assert found is not None and found.px == pytest.approx(50)
    line = np.column_stack([np.arange(9.0), np.ones(9)])
    found = spot_pitch(line * 7, line)
    assert found is not None and (found.source, found.px) == ("neighbours", 7)
    assert spot_pitch(line[:3]) is None and spot_pitch(np.zeros((9, 2))) is None
    assert spot_pitch(np.zeros((len(chess), 2)), chess) is None
    # In whatever unit: nothing is said of a px.
    for array, px in ((None, 0.03), (chess, 0.05)):
        small = spot_pitch(hexagons / 1000 if array is None else chess * 0.025, array)
        assert small is not None and small.px == pytest.approx(px)
    assert np.isnan(nearest_pitch([[1.0, 2.0]])) and nearest_pitch([[1.0, 2.0], [4.0, 6.0]]) == 5
    # Four spots are enough, with their array and without.
    square = np.array([(x, y) for x in (0.0, 1.0) for y in (0.0, 1.0)])
    assert spot_pitch(square * 40, square).px == pytest.approx(40)  # type: ignore[union-attr]
    assert spot_pitch(square * 40).px == pytest.approx(40)  # type: ignore[union-attr]
    # Places that lie on no array are no chessboard, wherever rounding would put them.
    off = chess + np.random.default_rng(0).uniform(-0.49, 0.49, chess.shape)
    assert spot_pitch(off * 25, off).px == pytest.approx(25)  # type: ignore[union-attr]


def test_pitch_distances_of_some_spots() -> None:
    spots = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 5.0], [10.0, 5.0]])
    np.testing.assert_allclose(nearest_distances(spots), [5, 1, 1, 7])
    np.testing.assert_allclose(nearest_distances(spots, spots[[3, 0]]), [7, 5])


def test_an_image_file(tmp_path: Path) -> None:
    from PIL import Image

    mask = tissue()
    pixels = np.where(mask[..., None], [170, 90, 150], [244, 243, 245])
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    section = section_on(mask, image=tmp_path / "a.png")
    found = check_alignment(section).require()
    assert found.on_tissue > 0.95 and found.mpp == MPP
    Image.open(tmp_path / "a.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "b.png")
    with pytest.raises(AlignmentError, match="if flipped left-right"):
        check_alignment(dataclasses.replace(section, image=tmp_path / "b.png")).require()


@pytest.mark.parametrize("name", ["C2", *(pytest.param(other, marks=pytest.mark.slow) for other in ("C3", "C4"))])
def test_her2st(data_dir: Path, tmp_path: Path, name: str) -> None:
    from histomix.slides import tissue_mask

    folder = data_dir / "her2st"
    rows = [f"{s},C,{folder}/spots/{s}_selection.tsv,{folder}/images/{s}.jpg,0.69" for s in ("C2", "C3", "C4")]
    others = [f"{s},{s[0]},{folder}/spots/{s}_selection.tsv,,0.69" for s in ("A1", "B1", "E1", "G1", "H1")]
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("\n".join(["section,donor,spots,image,mpp", *rows, *others]))
    cohort = read_cohort(sheet)
    section = cohort.section(name)
    with section.slide() as slide:
        mask = tissue_mask(slide)
        found = check_alignment(section, slide, mask).require()
        assert found.on_tissue > 0.9
        assert found.pitch_um == pytest.approx(200, rel=0.02)
        flipped = section.spots_px * [-1, 1] + np.array([slide.width_px, 0])
        assert not check_alignment(moved(section, flipped), slide, mask).ok
        assert not check_alignment(moved(section, section.spots_px + np.array([0, 870])), slide, mask).ok
        for other in {*cohort.names} - {name}:
            with pytest.raises(AlignmentError):
                check_alignment(cohort.section(other), slide, mask).require()
