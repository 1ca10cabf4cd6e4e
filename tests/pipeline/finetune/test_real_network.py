"""A trained network, really cut: the groups that tracing finds line up, and a few steps mend the cut."""

import pytest
import torch

from secateur.artifacts import Model
from secateur.calibration.batches import batches
from secateur.calibration.gram import collect_gate_gram
from secateur.calibration.labels import label_loss
from secateur.pipeline.finetune import DistillationWeights, Finetune
from secateur.pipeline.finetune.features import match_readers
from secateur.pipeline.structure import cut, trace
from secateur.workloads.classification import cifar10, resnet20, task


@pytest.fixture(scope="module")
def trained(shared_data):
    weights = shared_data / "models" / "cifar10_resnet_akamaster" / "resnet20-12fca82f.th"
    return Model(module=resnet20(weights), example_inputs=(torch.zeros(2, 3, 32, 32),))


@pytest.mark.shared_data
def test_a_few_steps_mend_a_cut_of_the_least_salient_channels(trained, shared_data):
    data = cifar10(shared_data / "cifar10", num_train=800, num_test=10)
    structure = trace(trained.module, trained.example_inputs)
    loss = label_loss(task(10), "sampled", temperature=4.0, seed=0)
    gram = collect_gate_gram(
        trained.module, structure.groups, batches(data.calibration, 32, limit=64), loss, labels="sampled"
    )
    saliency = {name: gram.saliency(name) for name in gram.gram}
    keep = {
        name: worth.argsort(descending=True)[: len(worth) * 3 // 4].sort().values for name, worth in saliency.items()
    }
    student = Model(module=cut(trained.module, structure, keep), example_inputs=trained.example_inputs, kept=keep)
    groups = trace(student.module, student.example_inputs).groups
    readers = match_readers(student, trained, groups, structure.groups, saliency)
    assert {reader.group for reader in readers} == {group.name for group in structure.groups}
    settings = Finetune(
        num_steps=12, batch_size=32, learning_rate=0.02, optimizer="sgd", validation_limit=100,
        weights=DistillationWeights(feature=1.0),
    )  # fmt: skip
    _, result = settings(
        student, trained, task(10), data, groups=structure.groups, student_groups=groups, importance=saliency
    )
    before, after = result.epochs[0], result.epochs[-1]
    assert after.distillation_loss < 0.5 * before.distillation_loss
    assert after.feature_loss < before.feature_loss
    assert result.epochs[result.best_epoch].metrics["top1"] > before.metrics["top1"] + 0.1
