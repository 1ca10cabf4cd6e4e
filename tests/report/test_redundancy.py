"""The estimate is told with its matrix, rule, tau and dead channels; tau is never told as a loss."""

from secateur.artifacts import (
    Covering,
    DeadChannels,
    DeadRemoval,
    GroupRedundancy,
    Redundancy,
    Summary,
    TauCalibration,
    TauProbe,
)
from secateur.report.console import redundancy_view
from secateur.report.gates import network_intervals
from secateur.report.html import render_html
from secateur.report.plots.spectra import spectra_figure
from secateur.report.redundancy import found_told, redundancy_json, rule_told
from secateur.report.tables.cutting import redundancy_table


def full(redundancy: Redundancy) -> Redundancy:
    """The same estimate with all that can be known."""
    first, second, *others = redundancy.groups
    first = first.model_copy(
        update={
            "dead": DeadChannels(zero=(0, 3), constant=(1,), unread=(3, 4)),
            "covering": Covering(num_components=20, num_cover=24, redundancy=1.41),
        }
    )
    second = second.model_copy(update={"dead": DeadChannels()})
    return redundancy.model_copy(
        update={
            "groups": (first, second, *others),
            "calibration": TauCalibration(
                loss_increase=0.05, loss_before=0.21, loss=0.2543, num_samples=1256,
                probes=(TauProbe(tau=0.1, loss=0.9), TauProbe(tau=0.01, loss=0.2543)),
            ),
            "removal": DeadRemoval(
                num_channels=4, macs=redundancy.macs // 2, parameters=redundancy.parameters, residual=2.4e-7,
                residual_zero=0.31,
            ),
        }
    )  # fmt: skip


def test_json_says_what_follows_too(summary: Summary) -> None:
    found = redundancy_json(full(summary.redundancy))
    assert set(found["maximum_compression"]) == {"filters", "macs", "parameters"}
    for told in found["groups"]:
        assert told["redundancy"] == 1 - told["num_effective"] / told["num_channels"]
    told = {key: found[key] for key in Redundancy.model_fields}
    told["groups"] = [{key: of[key] for key in GroupRedundancy.model_fields} for of in told["groups"]]
    assert Redundancy.model_validate(told) == full(summary.redundancy)


def text_of(redundancy: Redundancy) -> str:
    from rich.console import Console

    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(redundancy_view(redundancy))
    return console.export_text()


def test_what_was_measured_is_told_beside_tau(summary: Summary) -> None:
    found = full(summary.redundancy)
    assert rule_told(found) == "a tail of tau = 0.01 nats in the spectra of gate gradients"
    calibration, dead, removal, covering = found_told(found)
    assert calibration == (
        "tau was found by 2 measurements: cut to its floors, without training, the network's loss on 1,256 held-out "
        "samples goes from 0.210 to 0.254; an increase of 0.05 was allowed."
    )
    assert dead == "4 channels are dead: 2 always zero, 1 otherwise constant, 2 with no reader."
    assert "Without 4 of them" in removal
    assert "50.0 % of the MACs" in removal
    assert "by 0.31 without" in removal
    assert "greatest is 1.41, in features.0.0" in covering
    shown = text_of(found)
    assert all(line in shown for line in (calibration, dead, removal, covering))
    assert found_told(summary.redundancy) == ()


def test_dead_channels_and_covering_have_their_columns(summary: Summary) -> None:
    table = redundancy_table(full(summary.redundancy))
    assert table.header[5:] == ("Dead", "R")
    assert [row[5:] for row in table.rows[:3]] == [("4", "1.41"), ("0", ""), ("", "")]


def test_an_estimate_without_tau_is_told_and_drawn(summary: Summary) -> None:
    found = summary.redundancy.model_copy(
        update={"tau": None, "estimator": "energy", "threshold": 0.02, "matrix": "weight-gradient"}
    )
    assert rule_told(found) == "energy (threshold 0.02) of the spectra of filters' gradients"
    assert "tau" not in text_of(found)
    figure = spectra_figure(found)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["share of the spectrum in the tail", "effective filters"]
    assert len(figure.axes) == len(found.groups)
    for axes, group in zip(figure.axes, found.groups, strict=True):
        drawn = axes.lines[0].get_ydata()
        assert drawn[0] == 1
        assert axes.lines[-1].get_xdata()[0] == group.num_effective


def test_the_page_tells_the_same(small: Summary) -> None:
    changed = small.model_copy(update={"redundancy": full(small.redundancy)})
    page = render_html(changed, network_intervals(changed.evaluations, num_resamples=50))
    assert rule_told(changed.redundancy) in page
    assert "4 channels are dead" in page
    assert "tau was found by 2 measurements" in page
