"""Genes of a reference found among those of a section, by any of the names that both give them."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..errors import LabelError
from .abundance import examples
from .signatures import other_names

if TYPE_CHECKING:
    from anndata import AnnData

    from .signatures import Signatures

_GENOME = re.compile(r"([A-Za-z]+[0-9][A-Za-z0-9.-]*)_+\S")
#: Share of the genes that must look alike to tell the species.
_OF_ONE_KIND = 0.8
_VERSIONED = re.compile(r"^(ENS[A-Z]*G\d+)\.\d+$")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GeneMatch:
    """Genes shared by a section and a reference: their positions in each, and how many have the very same name."""

    in_section: np.ndarray
    in_reference: np.ndarray
    exact: int


def match_genes(genes: pd.Index, reference: pd.Index) -> GeneMatch:
    """Find the genes of a reference among those of a section.

    Same names first; then names that differ only in case or in the version of an Ensembl id, where just one gene of
    each side has that name.
    """
    positions = reference.get_indexer(genes)
    exact = int((positions >= 0).sum())
    free = np.flatnonzero(positions < 0)
    others = np.setdiff1d(np.arange(len(reference)), positions)
    loose = pd.Series(free, index=_plain(genes[free]))
    loose_reference = pd.Series(others, index=_plain(reference[others]))
    both = pd.concat(
        [names[~names.index.duplicated(keep=False)] for names in (loose, loose_reference)], axis=1, join="inner"
    ).to_numpy(dtype=np.intp)
    positions[both[:, 0]] = both[:, 1]
    in_section = np.flatnonzero(positions >= 0)
    return GeneMatch(in_section, positions[in_section], exact)


def match_section(adata: AnnData, signatures: Signatures, min_genes: int | None = None) -> GeneMatch:
    """Find the genes of a reference in a section, by those of its gene names that fit best.

    Parameters
    ----------
    adata
        The section; its genes may be named by ``var_names``, or by ids or symbols in ``var``.
    signatures
        The reference.
    min_genes
        Refuse fewer shared genes than this; None: twice as many as cell types, and at least 20.

    Raises
    ------
    LabelError
        Too few genes are shared, a cell type has no counts in the shared genes, or the reference is a table of spots.
    """
    _refuse_spots(adata.obs_names, signatures)
    sides = (
        _spellings(adata.var_names, other_names(adata.var)),
        _spellings(signatures.table.index, signatures.other_names),
    )
    best, reference, match = max(
        ((ours, theirs, match_genes(ours, theirs)) for ours in sides[0] for theirs in sides[1]),
        key=lambda one: len(one[2].in_section),
    )
    n_shared = len(match.in_section)
    floor = gene_floor(signatures, min_genes)
    if n_shared < floor:
        turned = match_genes(best, signatures.table.columns)
        if len(turned.in_section) > n_shared:
            raise LabelError(
                f"has the genes in its columns ({len(turned.in_section)} of them are in the section) and "
                f"{len(reference):,} rows, such as {examples(reference)}",
                where=signatures.source,
                hint="Turn the table: one row per gene, one column per cell type",
            )
        genomes = _genomes(best)
        if genomes:
            raise LabelError(
                f"the genes of the section are those of several genomes, by their prefixes ({', '.join(genomes)})",
                hint=f"Name one: the option genome of the spots, as in outs#genome={genomes[0]}, or --genome",
            )
        raise LabelError(
            f"{n_shared} of the {len(best)} genes of the section (such as {examples(best)}) are among the "
            f"{len(reference)} of {signatures.source} (such as {examples(reference)}); {floor} are needed",
            hint="Use the same gene names in both (symbols or Ensembl ids, same species)",
        )
    _warn_of_species(best, reference, match, sides, signatures.source)
    if n_shared < 0.1 * len(reference):
        _log.warning("only %d of the %d genes of the reference are in the section", n_shared, len(reference))
    empty = signatures.table.columns[~signatures.table.to_numpy()[match.in_reference].any(axis=0)]
    if len(empty):
        raise LabelError(
            f"{len(empty)} cell types have no counts in the {n_shared} shared genes (such as {examples(empty)})",
            hint="Leave these types out of the reference, or give it more genes",
        )
    return match


def _spellings(names: pd.Index, others: pd.DataFrame) -> list[pd.Index]:
    """The genes by each kind of name; a name that comes again is left empty, so that it stands for its first gene.

    Names that all have the prefix of one genome are there without it too.
    """
    kinds = [names, *(pd.Index(others[kind], dtype=object) for kind in others)]
    for kind in list(kinds):
        if len(genome := _genomes(kind)) == 1:
            kinds.append(pd.Index([str(name)[len(genome[0]) :].lstrip("_") for name in kind], dtype=object))
    return [kind if kind.is_unique else pd.Index(kind.where(~kind.duplicated(), "")) for kind in kinds]


def _genomes(genes: pd.Index) -> list[str]:
    """Prefixes of genes as Cell Ranger writes them for several genomes: ``GRCh38_CD3E``, ``mm10___Cd3e``."""
    matches = [_GENOME.match(str(gene)) for gene in genes]
    known = sorted({match[1] for match in matches if match})
    return known if matches and all(matches) else []


def _warn_of_species(
    ours: pd.Index,
    theirs: pd.Index,
    match: GeneMatch,
    sides: tuple[list[pd.Index], list[pd.Index]],
    source: str,
) -> None:
    """Say so where the reference is of another species than the section, by Ensembl ids or the spelling of symbols."""
    section, reference = (_species([*kinds]) for kinds in sides)
    if section is None or reference is None:
        section, reference = _spelt_like(ours[match.in_section]), _spelt_like(theirs[match.in_reference])
    if section is not None and reference is not None and section != reference:
        _log.warning(
            "%s: its genes are spelt as those of a %s, and the section's as those of a %s (as %s and %s): only genes "
            "that are called alike in both are used, whatever they do; give a reference of the section's species",
            source, reference, section, examples(theirs[match.in_reference], 1), examples(ours[match.in_section], 1),
        )  # fmt: skip


def _species(kinds: list[pd.Index]) -> str | None:
    """Human or mouse, by Ensembl ids among any of the names of the genes; None where there are none."""
    for names in kinds:
        for species, prefix in (("human", "ENSG0"), ("mouse", "ENSMUSG0")):
            if len(names) and np.mean([str(name).upper().startswith(prefix) for name in names]) > _OF_ONE_KIND:
                return species
    return None


def _spelt_like(symbols: pd.Index) -> str | None:
    """Human symbols are in capitals (CD3E), those of the mouse begin with one (Cd3e); None where neither is so."""
    letters = [name for name in map(str, symbols) if sum(map(str.isalpha, name)) > 1]
    if not letters:
        return None
    if np.mean([name.isupper() for name in letters]) > _OF_ONE_KIND:
        return "human"
    alike = [name[0].isupper() and name[1:].islower() for name in letters]
    return "mouse" if np.mean(alike) > _OF_ONE_KIND else None


def gene_floor(signatures: Signatures, min_genes: int | None) -> int:
    """Fewest shared genes to go on with."""
    return max(20, 2 * signatures.table.shape[1]) if min_genes is None else min_genes


def _plain(genes: pd.Index) -> pd.Index:
    names = (str(gene).upper() for gene in genes)
    return pd.Index([_VERSIONED.sub(r"\1", name) if name.startswith("ENS") else name for name in names], dtype=object)


def _refuse_spots(spots: pd.Index, signatures: Signatures) -> None:
    """Refuse counts of the section itself, whose spots would pass for as many cell types."""
    for what, names in (("columns", signatures.table.columns), ("rows", signatures.table.index)):
        shared = names[names.isin(spots)]
        if len(shared) > 1 and len(shared) >= len(names) / 2:
            raise LabelError(
                f"has spots of the section in its {what} (such as {examples(shared)}): it looks like counts, and a "
                "reference has cell types",
                where=signatures.source,
                hint="Give signatures, genes x cell types, or single cells with their types; counts stand in the sheet",
            )
