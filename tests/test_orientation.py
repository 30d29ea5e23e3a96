"""A missing flip, turn, shift or scale is found and proposed with numbers; nothing is, where nothing can be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from histomix.errors import AlignmentError, SectionError
from histomix.spots import Section, check_alignment, read_cohort, read_spots
from histomix.spots.alignment.extent import outside_text
from histomix.spots.alignment.fit import ORIENTATIONS, orientation
from histomix.spots.alignment.layout import layout_of
from histomix.spots.alignment.overlay import render_overlay
from histomix.spots.alignment.proposal import apply_alignment, propose_alignment
from histomix.spots.alignment.write import write_spots_csv

from .test_alignment import HEIGHT, MPP, PITCH_PX, WIDTH, Mask, check, moved, section_on, slide_of, tissue

pytestmark = pytest.mark.once

MASK = tissue()
SECTION = section_on(MASK)


def propose(section: Section, mask: np.ndarray = MASK, mpp: float = MPP):  # type: ignore[no-untyped-def]
    return propose_alignment(section, slide_of(mask, mpp), Mask(mask))  # type: ignore[arg-type]


def undone(xy_px: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What the coordinates were before an affine: solved, not taken from the library."""
    return np.linalg.solve(affine[:, :2], (xy_px - affine[:, 2]).T).T


def after(affine: np.ndarray, shift: tuple[int, int]) -> np.ndarray:
    return affine + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])


def hexagons(pitch_px: float, columns: int, rows: int) -> tuple[np.ndarray, pd.DataFrame]:
    """A Visium lattice: array_row, array_col (every other one in a row), and centres."""
    row, column = np.mgrid[:rows, :columns]
    column = 2 * column + row % 2
    array = np.column_stack([column.ravel(), row.ravel()])
    keys = pd.Index([f"{r}x{c}" for c, r in array])
    obs = pd.DataFrame({"array_row": array[:, 1], "array_col": array[:, 0]}, index=keys)
    return array * (pitch_px / 2, pitch_px * np.sqrt(3) / 2) + pitch_px, obs


def section_of(xy_px: np.ndarray, obs: pd.DataFrame | None = None, **changes: object) -> Section:
    table = pd.DataFrame(index=[f"s{i}" for i in range(len(xy_px))]) if obs is None else obs
    values = {"name": "S", "donor": "P", "adata": AnnData(obs=table, obsm={"spatial": xy_px}), "mpp": MPP}
    return Section(**(values | changes))  # type: ignore[arg-type]


def test_a_right_section_needs_nothing() -> None:
    found = propose(SECTION)
    assert (found.verdict, found.change) == ("fits", "as given")
    assert np.array_equal(found.affine, np.eye(2, 3)) and found.on_tissue == found.on_tissue_before == 1.0
    assert "fit as given" in found.text()


@pytest.mark.parametrize("shift", [(0, 0), (90, -120), (-140, 60)])
@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_orientation_and_shift_is_undone(name: str, shift: tuple[int, int]) -> None:
    right = after(orientation(name, (WIDTH, HEIGHT)), shift)
    found = propose(moved(SECTION, undone(SECTION.spots_px, right)))
    if name == "as given" and shift == (0, 0):
        assert found.verdict == "fits"
        return
    assert found.verdict == "proposed" and found.margin > 0.05
    assert found.on_tissue > 0.97 > found.on_tissue_before and found.overlap > 0.83 > found.overlap_before
    back = apply_alignment(undone(SECTION.spots_px, right), found)
    error_px = np.linalg.norm(back - SECTION.spots_px, axis=1).max()
    assert error_px < (1e-6 if shift == (0, 0) else PITCH_PX / 2)
    assert error_px <= found.precision_px + 1e-6
    assert found.change.startswith(name) == (name != "as given") and ("shifted" in found.change) == (shift != (0, 0))
    assert found.summary() in found.text() and "Nothing was changed" in found.text()


def test_orientations_are_the_eight_of_a_square() -> None:
    picture = np.arange(12).reshape(3, 4)  # 4 wide, 3 high
    y, x = np.mgrid[:3, :4]
    centres = np.column_stack([x.ravel(), y.ravel()]) + 0.5
    seen = set()
    for name, (swap, _, _) in ORIENTATIONS.items():
        size = (3, 4) if swap else (4, 3)
        positions = np.floor(apply_alignment(centres, orientation(name, size))).astype(int)
        turned = np.empty(size[::-1], dtype=int)
        turned[positions[:, 1], positions[:, 0]] = picture.ravel()
        seen.add(turned.tobytes() + bytes(size))
        if name == "rotated by 90 degrees":
            assert np.array_equal(turned, np.rot90(picture, -1))  # clockwise
        if name == "x and y swapped":
            assert np.array_equal(turned, picture.T)
    assert len(seen) == 8


def test_the_error_tells_the_proposal() -> None:
    turned = moved(SECTION, undone(SECTION.spots_px, orientation("flipped left-right", (WIDTH, HEIGHT))))
    found = check(turned, MASK)
    assert found.proposal is not None and found.proposal.verdict == "proposed"
    with pytest.raises(
        AlignmentError, match=r"not applied: they would fit flipped left-right: 100% of the spots"
    ) as caught:
        found.require()
    assert "write_spots_csv" in str(caught.value)


def test_a_symmetric_tissue_is_ambiguous() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = (x - 350) ** 2 + (y - 380) ** 2 < 200**2
    section = section_on(disc)
    found = propose(moved(section, section.spots_px + np.array([150, 0])), disc)
    assert found.verdict == "ambiguous" and found.margin < 0.05 and found.runner_up
    assert "landmarks" in found.text()
    assert propose(section, disc).verdict == "fits"


def test_unrelated_tissue_gets_no_proposal() -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ring = ((x - 350) ** 2 + (y - 380) ** 2 < 300**2) & ((x - 350) ** 2 + (y - 380) ** 2 > 220**2)
    found = propose(SECTION, ring)
    assert found.verdict == "none" and np.array_equal(found.affine, np.eye(2, 3))
    assert "another section" in found.text()
    refused = check(SECTION, ring)
    assert not refused.ok
    with pytest.raises(AlignmentError) as caught:
        refused.require()
    assert "proposal" not in str(caught.value)
    assert propose(SECTION, np.zeros_like(MASK)).verdict == "none"


@pytest.mark.parametrize("factor", [0.16, 0.4, 1.3, 2.5])
@pytest.mark.parametrize("pitch_um", [200.0, None])
def test_coordinates_of_the_image_at_another_size(factor: float, pitch_um: float | None) -> None:
    section = dataclasses.replace(SECTION, spot_pitch_um=pitch_um)
    found = check(moved(section, section.spots_px * factor), MASK)
    assert not found.ok and found.proposal is not None and found.proposal.verdict == "proposed"
    assert found.proposal.scale == pytest.approx(1 / factor, rel=0.01 if pitch_um else 0.03)
    said = " ".join(found.problems)
    assert ("times smaller" if factor < 1 else "times larger") in said
    if factor < 1:
        share = np.prod(section.spots_px.max(axis=0) * factor / (WIDTH, HEIGHT))
        assert f"fill only the upper left {share:.0%} of the image" in said


def test_a_scale_is_not_blamed_where_mpp_is() -> None:
    found = check(SECTION, MASK, mpp=2 * MPP)
    assert any("an mpp of 10 would fit" in problem for problem in found.problems)
    assert not any("times" in problem for problem in found.problems)
    assert found.proposal is not None and found.proposal.verdict == "fits"


def test_spots_outside_are_counted_by_side() -> None:
    xy_px = np.array([[5, 5], [-3, 50], [-40, 60], [120, 110], [50, 100], [99, 99]], dtype=float)
    text = outside_text(xy_px, (100, 100))
    assert text == (
        "4 of 6 spots (66.7%) lie outside the image of 100 x 100 px: 2 beyond its left edge, 1 beyond its lower edge, "
        "1 beyond its lower right corner, up to 40 px away; 2 have negative coordinates"
    )
    assert outside_text(xy_px[:1], (100, 100)) == ""
    few_out = np.vstack([SECTION.spots_px, [-8, 300]])
    found = check(section_of(few_out, spot_pitch_um=200.0), MASK)
    assert found.ok and any("1 beyond its left edge" in note for note in found.notes)


@pytest.mark.parametrize("name", ["as given", "rotated by 180 degrees"])
def test_a_hexagonal_lattice(name: str) -> None:
    xy_px, obs = hexagons(14.0, 48, 60)
    kept = Mask(MASK).contains(xy_px, MPP)
    affine = orientation(name, (WIDTH, HEIGHT))
    section = section_of(undone(xy_px[kept], affine), obs[kept], spot_pitch_um=140.0)
    found = check(section, MASK)
    assert found.pitch_px == pytest.approx(14.0) and found.overlap < 1
    assert found.ok == (name == "as given")
    assert found.proposal is not None and found.proposal.change == name
    without = check(section_of(section.spots_px, spot_pitch_um=140.0), MASK)
    assert without.pitch_px == pytest.approx(14.0, rel=0.01) and without.ok == found.ok


def test_a_grid_over_the_whole_image_is_not_refused() -> None:
    axes = np.arange(8, WIDTH, 16), np.arange(8, HEIGHT, 16)
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2) * 1.0
    found = check(section_of(grid, spot_pitch_um=160.0), MASK)
    assert found.on_tissue < 0.3 and found.ok
    assert any("cannot be told" in note for note in found.notes)
    angle = np.deg2rad(9)
    turned = (grid - grid.mean(axis=0)) @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    layout = layout_of(turned, pd.DataFrame(index=range(len(grid))))
    assert layout is not None and layout.filled > 0.95
    corner = grid[(grid < 200).all(axis=1)]
    assert not check(section_of(corner, spot_pitch_um=160.0), MASK).ok


def test_spots_said_to_be_off_tissue_do_not_count() -> None:
    xy_px, obs = hexagons(14.0, 48, 60)
    flags = Mask(MASK).contains(xy_px, MPP)
    section = section_of(xy_px, obs.assign(in_tissue=flags.astype(int)), spot_pitch_um=140.0)
    found = check(section, MASK)
    assert found.ok and found.on_tissue == 1.0 and found.overlap > 0.8 and found.spots == len(xy_px)
    text = section_of(xy_px, obs.assign(in_tissue=flags.astype(int).astype(str)), spot_pitch_um=140.0)
    assert check(text, MASK).on_tissue == 1.0
    assert not check(moved(section, xy_px + np.array([200, 0])), MASK).ok


def test_loose_points_have_no_pitch_but_a_place() -> None:
    points = np.random.default_rng(3).uniform(0, 1, (9000, 2)) * (WIDTH, HEIGHT)
    section = section_of(points[Mask(MASK).contains(points, MPP)], spot_pitch_um=10.0)
    found = check(section, MASK)
    assert found.ok and found.pitch_px is None and any("no lattice" in note for note in found.notes)
    flipped = moved(section, section.spots_px * [-1, 1] + [WIDTH, 0])
    refused = check(flipped, MASK)
    assert not refused.ok and refused.proposal is not None and refused.proposal.change == "flipped left-right"


def test_few_spots_and_chosen_parts_are_not_judged_by_their_outline() -> None:
    inside = SECTION.adata[(np.abs(SECTION.spots_px - [380, 300]) < 42).all(axis=1)].copy()
    few = dataclasses.replace(SECTION, adata=inside)
    assert 4 < len(inside) < 25
    found = check(few, MASK)
    assert found.ok and any(f"too few spots ({len(inside)})" in note for note in found.notes)
    assert found.pitch_px is not None and propose(few).verdict == "none"
    part = dataclasses.replace(
        SECTION, adata=SECTION.adata[(np.abs(SECTION.spots_px - [380, 300]) < 75).all(axis=1)].copy()
    )
    found = check(part, MASK)
    assert len(part.adata) >= 25 and found.ok and any("part of the tissue" in note for note in found.notes)
    assert not check(moved(few, few.spots_px + np.array([250, 300])), MASK).ok


def test_corrected_spots_on_disk(tmp_path: Path) -> None:
    affine = orientation("rotated by 90 degrees", (WIDTH, HEIGHT))
    section = moved(SECTION, undone(SECTION.spots_px, affine))
    before = section.spots_px.copy()
    proposal = propose(section)
    path = write_spots_csv(section, proposal, tmp_path / "mended.csv")
    assert np.array_equal(section.spots_px, before)
    read = read_spots(path)
    assert list(read.index) == list(section.keys)
    np.testing.assert_allclose(read.to_numpy(), SECTION.spots_px, atol=2e-3)
    (tmp_path / "sheet.csv").write_text(f"section,donor,spots,image,mpp,spot_pitch_um\nS,P,{path.name},,10,200\n")
    again = read_cohort(tmp_path / "sheet.csv").section("S")
    assert check(again, MASK).require().pitch_um == pytest.approx(200, rel=0.01)
    record = json.loads((tmp_path / "mended.csv.transform.json").read_text())
    assert record["section"] == "S" and record["proposal"]["change"] == "rotated by 90 degrees"
    np.testing.assert_allclose(record["affine_px"], affine)


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((2, 3)), [[1, 0, np.nan], [0, 1, 0]]])
def test_no_affine(affine: object, tmp_path: Path) -> None:
    with pytest.raises(SectionError, match="no invertible 2 x 3 matrix"):
        write_spots_csv(SECTION, affine, tmp_path / "a.csv")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
    with pytest.raises(SectionError, match="are not n x 2"):
        apply_alignment(np.zeros(3), np.eye(2, 3))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.where(MASK[..., None], [170, 90, 150], [244, 243, 245])
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def colour_share(path: Path, code: tuple[int, int, int]) -> float:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return float((np.abs(pixels - code).max(axis=-1) < 40).mean())


BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def test_the_overlay_shows_on_and_off_tissue(image: Path, tmp_path: Path) -> None:
    section = dataclasses.replace(SECTION, image=image, spot_diameter_um=150.0)
    one = render_overlay(section, tmp_path / "one.png")
    width, height = Image.open(one).size
    assert height > width * 0.8  # one panel of a picture that is higher than wide
    assert colour_share(one, BLUE) > 5 * colour_share(one, ORANGE)
    turned = moved(section, section.spots_px * [-1, 1] + [WIDTH, 0])
    two = render_overlay(turned, tmp_path / "two.jpg")
    assert Image.open(two).format == "JPEG" and Image.open(two).size[0] > Image.open(two).size[1]
    assert colour_share(two, ORANGE) > 3 * colour_share(one, ORANGE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.jpg"]


def test_the_overlay_by_labels(image: Path, tmp_path: Path) -> None:
    section = dataclasses.replace(SECTION, image=image, name="$S_1$")
    numbers = pd.Series(np.arange(len(section.keys)) * 1.0, index=section.keys, name="cells")
    words = pd.Series("tumour", index=section.keys)
    with section.slide() as slide:
        alignment = check_alignment(section, slide)
        for name, labels in (("numbers", numbers), ("words", words)):
            path = render_overlay(section, tmp_path / f"{name}.png", slide, labels, alignment=alignment)
            assert Image.open(path).format == "PNG"
        assert colour_share(path, BLUE) < 0.001
        assert colour_share(tmp_path / "words.png", (230, 159, 0)) > 0.01
        with pytest.raises(SectionError, match="none of the spots"):
            render_overlay(section, tmp_path / "c.png", slide, pd.Series(1.0, index=["z"]), alignment=alignment)
    with pytest.raises(SectionError, match=r"\.png or \.jpg"):
        render_overlay(section, tmp_path / "c.bmp")


@pytest.mark.parametrize("name", ["C2", *(pytest.param(other, marks=pytest.mark.slow) for other in ("C3", "C4"))])
def test_her2st(data_dir: Path, tmp_path: Path, name: str) -> None:
    from histomix.slides import tissue_mask

    folder = data_dir / "her2st"
    rows = [f"{s},{s[0]},{folder}/spots/{s}_selection.tsv,{folder}/images/{name}.jpg,0.69" for s in (name, "A3", "E1")]
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("\n".join(["section,donor,spots,image,mpp", *rows]))
    cohort = read_cohort(sheet)
    section = cohort.section(name, counts=False)
    with section.slide() as slide:
        mask = tissue_mask(slide)
        assert propose_alignment(section, slide, mask).verdict == "fits"
        for turn, shift in zip(ORIENTATIONS, [(900, -600), (0, 0)] * 4, strict=True):
            right = after(orientation(turn, (slide.width_px, slide.height_px)), shift)
            wrong = moved(section, undone(section.spots_px, right))
            found = propose_alignment(wrong, slide, mask)
            assert found.verdict == "proposed" and found.margin > 0.1 and found.on_tissue > 0.96
            error_px = np.linalg.norm(apply_alignment(wrong.adata, found) - section.spots_px, axis=1)
            assert error_px.max() <= found.precision_px + 1e-6 < 150
            assert not check_alignment(wrong, slide, mask).ok
        for other in ("A3", "E1"):
            assert not propose_alignment(cohort.section(other, counts=False), slide, mask).changes
