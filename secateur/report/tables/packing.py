"""What packing made of each tensor."""

from secateur.artifacts import PackResult
from secateur.report.formatting import size
from secateur.report.tables.table import Table

MOST_ROWS = 20


def packing_table(found: PackResult) -> Table:
    """List the largest tensors with their form and sizes, and the sum of the others."""
    ordered = sorted(found.tensors.items(), key=lambda entry: -entry[1].dense_bytes)
    listed, others = ordered[:MOST_ROWS], [tensor for _, tensor in ordered[MOST_ROWS:]]
    rows = [
        (name, tensor.form, f"{tensor.zeros:.0%}", f"{tensor.distinct:,}", size(tensor.dense_bytes),
         size(tensor.coded_bytes), size(round(tensor.entropy_bytes)))
        for name, tensor in listed
    ]  # fmt: skip
    if others:
        sums = [sum(t.dense_bytes for t in others), sum(t.coded_bytes for t in others)]
        bound = round(sum(t.entropy_bytes for t in others))
        rows.append((f"{len(others)} smaller ones", "", "", "", size(sums[0]), size(sums[1]), size(bound)))
    return Table(
        title="Tensors", header=("Name", "Form", "Zeros", "Values", "Before", "Coded", "Entropy"), rows=tuple(rows)
    )
