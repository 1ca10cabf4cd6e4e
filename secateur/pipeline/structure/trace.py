"""Find what must be cut together in a network."""

import contextlib
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from secateur.artifacts import Group, Pinned
from secateur.errors import TraceError
from secateur.pipeline.structure.admission import require_traceable
from secateur.pipeline.structure.bill import Bill
from secateur.pipeline.structure.branches import Removable
from secateur.pipeline.structure.capture import capture, device_of
from secateur.pipeline.structure.copying import canonical_names, tensors
from secateur.pipeline.structure.follow import follow
from secateur.pipeline.structure.groups import Assembly, Settings
from secateur.pipeline.structure.labels import Flow
from secateur.pipeline.structure.numbers import numbers_of, unusual
from secateur.pipeline.structure.proof import Fault, Trial
from secateur.pipeline.structure.residual import Search
from secateur.pipeline.structure.stand_in import made_by_constants
from secateur.pipeline.structure.structure import Joints, Structure, with_branches
from secateur.pipeline.structure.subject import Subject
from secateur.pipeline.structure.ways import fit


def trace(
    module: nn.Module,
    example_inputs: tuple[Tensor, ...],
    *,
    keep: Sequence[str] = (),
    multiple: int = 1,
    branches: bool = False,
) -> Structure:
    """Find the groups of channels that can be cut from a network, and what is pinned and why.

    Channels are labels that flow through the network's ATen graph: moved by what moves data, merged where they meet,
    tied to the parameters that make and read them; connected labels are cut together. An operator that is not followed
    pins the channels that touch it, so the remainder is honest and no cut is wrong.

    ``example_inputs`` have a batch axis first. ``keep`` names modules (a dotted path covers what is below it) or module
    classes whose own channels are never cut; they may still lose inputs. ``multiple`` is the step in which widths may
    change, see `step_for`. With ``branches`` residual branches that can be removed whole are looked for too, see
    `Removable`. The network is left as it was. Raises TraceError where the graph cannot be captured, a name in ``keep``
    fits nothing, or weights or inputs are no numbers that a cut can be proved with.
    """
    require_traceable(module, example_inputs, keep, multiple)
    protected = _protected(module, keep)
    device = device_of(module)
    inputs = tuple(x.to(device) for x in example_inputs)
    captured = capture(module, inputs)
    first, named = canonical_names(module), tensors(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    batch_size = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    integral = frozenset(name for name, tensor in named.items() if not tensor.is_floating_point())
    flow = Flow(shapes=shapes, integral=integral, constants=made_by_constants(module))
    env = follow(captured, flow, batch_size)
    products = tuple(flow.products)
    parameters = {name: parameter.element_size() for name, parameter in module.named_parameters()}
    if hidden := any(name not in captured.used for name in parameters):
        # Auxiliary heads run in training only; they read channels all the same.
        with contextlib.suppress(TraceError):
            follow(capture(module, inputs, training=True), flow, batch_size)
    settings = Settings(protected={first[name]: reason for name, reason in protected.items()}, multiple=multiple)
    input_axes = {tensor: 1 - axis for tensor, axis in flow.producers}

    subject = Subject(module, inputs, wants_double=bool(flow.contractions or flow.divisions))

    def trial(found: Assembly) -> Trial:
        joints = Joints(groups=found.groups, shapes=shapes, numbers=numbers_of(module, found, flow, shapes))
        return Trial(
            subject=subject, joints=joints, trains=hidden, is_uneven=bool(flow.contractions or flow.divisions),
            is_divided=bool(flow.divisions), input_axes=input_axes,
        )  # fmt: skip

    proved: list[Settings] = []

    def test(assembly: Assembly, groups: Sequence[Group], only_shapes: bool) -> Fault | None:
        fault = trial(assembly).fault(groups, only_shapes=only_shapes)
        if fault is None and groups is assembly.groups and not only_shapes:
            proved.append(assembly.settings)
        return fault

    found, rejected = fit(flow, settings, module, test)
    faults = {} if found.settings in proved else rejected | trial(found).failures(set(rejected))
    if faults.keys() > rejected.keys():
        counting = frozenset(type(owner) for owner in module.modules())
        wider = replace(found, settings=replace(found.settings, counting=counting))
        fewer = rejected | trial(wider).failures(set(rejected))
        found, faults = (wider, fewer) if len(fewer) < len(faults) else (found, faults)
    found = _fewest_numbers(module, found, trial, [g for g in found.groups if g.name not in faults])
    rigid = {g.name: _rigid(g) for g in found.groups if g.least == g.num_channels and g.name not in faults}
    reasons = {**faults, **rigid}
    failed = tuple(_failed(g, reasons[g.name], input_axes) for g in found.groups if g.name in reasons)
    groups = tuple(g for g in found.groups if g.name not in faults)
    structure = Structure(
        groups=groups, pinned=(*found.pinned, *failed), example_inputs=example_inputs, shapes=shapes,
        output_shapes=captured.output_shapes,
        bill=Bill(products=products, shares=found.shares, parameters=parameters),
        numbers=tuple(n for n in trial(found).joints.numbers if n.group not in faults),
    )  # fmt: skip
    if not branches:
        return structure
    search = Search(
        module=module, captured=captured, flow=flow, found=found, groups=groups, protected=frozenset(settings.protected)
    )
    return with_branches(structure, *Removable(search=search, env=env, inputs=inputs)())


def _fewest_numbers(
    module: nn.Module, found: Assembly, trial: Callable[[Assembly], Trial], groups: Sequence[Group]
) -> Assembly:
    """Leave alone what need not follow the widths: a number may be as large as a width and count something else."""
    for attribute in unusual(module, trial(found).joints.numbers) if found.settings.counting else ():
        fewer = replace(found, settings=replace(found.settings, ignored=found.settings.ignored | {attribute}))
        if trial(fewer).fault(groups) is None:
            found = fewer
    return found


def _rigid(group: Group) -> str:
    """Say why a group that can be cut is as narrow as it may be."""
    if group.num_channels == 1:
        return "its channels are all tied to each other, so that none can go without the others"
    return f"{group.num_channels} of {group.num_channels} is its smallest width in steps of {group.multiple}"


def _failed(group: Group, reason: str, input_axes: Mapping[str, int]) -> Pinned:
    """Report a group that cannot get narrower by its first producer and the rows that it has there."""
    module = group.name.partition("#")[0]
    made = [s for s in group.slices if s.tensor in input_axes and s.axis != input_axes[s.tensor]]
    first = next((s for s in made if s.tensor.startswith(module)), made[0])
    return Pinned(tensor=first.tensor, num_channels=first.indices.size, reason=reason, operator="", module=module)


def _protected(module: nn.Module, keep: Sequence[str]) -> Mapping[str, str]:
    """Map the tensors of the modules that are named to the reason why they are kept."""
    modules = dict(module.named_modules(remove_duplicate=False))
    classes = {type(m).__name__ for m in modules.values()}
    names = list(tensors(module))
    found: dict[str, str] = {}
    for wanted in keep:
        paths = [p for p, m in modules.items() if p == wanted or type(m).__name__ == wanted]
        if not paths or not wanted:
            close = difflib.get_close_matches(wanted, [*modules, *classes], n=5, cutoff=0.4)
            raise TraceError(
                "trace, keep", f"{wanted!r}", "the dotted path of a module or the name of a module class",
                f"Close names: {', '.join(filter(None, close)) or 'none'}.",
            )  # fmt: skip
        for path in paths:
            found |= {name: "kept by the user" for name in names if name.startswith(f"{path}." if path else "")}
    return found
