from __future__ import annotations

import torch

from recsys_spark.training.average import Average


def test_it_is_the_plain_recursion_and_leaves_the_module_alone() -> None:
    module = torch.nn.Linear(3, 2)
    average = Average(module, 0.5)
    plain = {name: tensor.tolist() for name, tensor in module.state_dict().items()}
    for step in range(1, 12):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += torch.randn_like(parameter)
        average.update()
        stays = min(0.5, (1 + step) / (10 + step))
        for name, tensor in module.state_dict().items():
            mixed = torch.tensor(plain[name]) * stays + tensor * (1 - stays)
            plain[name] = mixed.tolist()
    assert stays == 0.5
    own = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with average.in_place():
        for name, tensor in module.state_dict().items():
            torch.testing.assert_close(tensor, torch.tensor(plain[name]))
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, own[name])
