"""A plan's JSON becomes machines and money; what no price is known for is named."""

from __future__ import annotations

from typing import Any

import pytest

from dto.cluster.cloud.estimate import estimate, told
from dto.cluster.cloud.planned import read_plan, read_state

HEAD = {"name": "fern-head", "instance_type": "m6i.large"}


def group(count: int, percent: int = 100, base: int = 0, kind: str = "p5.48xlarge") -> Any:
    mix = {
        "on_demand_base_capacity": base,
        "on_demand_percentage_above_base_capacity": percent,
    }
    template = {"override": [{"instance_type": kind}, {"instance_type": "p4d.24xlarge"}]}
    policy = [{"instances_distribution": [mix], "launch_template": [template]}]
    values = {"desired_capacity": count, "mixed_instances_policy": policy}
    return resource("module.cluster.aws_autoscaling_group.nodes", values)


def resource(address: str, values: dict[str, Any]) -> dict[str, Any]:
    kind = address.split(".")[-2]
    return {"address": address, "mode": "managed", "type": kind, "values": values}


def plan(*resources: dict[str, Any], **cluster: Any) -> Any:
    after = {"name": "fern", "head": HEAD, **cluster}
    return read_plan(
        {
            "planned_values": {"root_module": {"child_modules": [{"resources": list(resources)}]}},
            "output_changes": {"dto_cluster": {"after": after}},
        }
    )


def test_the_nodes_of_an_auto_scaling_group_are_counted_by_its_first_type() -> None:
    prices = {"m6i.large": 0.1, "p5.48xlarge": 55, "p5.48xlarge-spot": 20}
    found = estimate(plan(group(4), prices=prices, node_groups={"gpu": {}}))
    assert [(m.what, m.instance_type, m.count, m.spot) for m in found.machines] == [
        ("head", "m6i.large", 1, False),
        ("gpu", "p5.48xlarge", 4, False),
    ]
    assert found.hourly == pytest.approx(220.1)
    spot = estimate(plan(group(4, percent=0, base=1), prices=prices))
    assert spot.hourly == pytest.approx(0.1 + 55 + 3 * 20)
    assert estimate(plan(group(0), prices=prices)).hourly == pytest.approx(0.1)


def test_nodes_that_the_output_lists_are_priced_by_group_and_spot() -> None:
    node = {"group": "gpu", "instance_type": "gpu-h100-sxm/8gpu", "spot": True}
    found = estimate(plan(nodes=[node, node], prices={"gpu-h100-sxm/8gpu-spot": 10}))
    assert [(m.what, m.count, m.hourly) for m in found.machines] == [
        ("head", 1, None), ("gpu", 2, 20.0),
    ]  # fmt: skip
    assert found.unknown == ["m6i.large"]
    assert "no price is known for m6i.large: write it into `prices`" in told(found)


def test_the_budget_lasts_as_long_as_the_stricter_of_its_limits() -> None:
    prices = {"m6i.large": 1.0, "p5.48xlarge": 49.5}
    budget = {"amount": 1000, "hours": None}
    found = estimate(plan(group(2), prices=prices, budget=budget))
    assert found.hours_left == pytest.approx(10)
    assert told(found)[-1] == "the budget of 1,000.00 USD lasts 10 h 00 min"
    both = estimate(plan(group(2), prices=prices, budget={"amount": 1000, "hours": 4}))
    assert both.hours_left == pytest.approx(2)
    free = estimate(plan(group(2), prices=prices))
    assert free.hours_left is None
    assert "no budget is set" in told(free)[-1]


def test_a_spot_price_that_is_not_known_is_taken_from_the_type() -> None:
    found = estimate(plan(group(1, percent=0), prices={"m6i.large": 1, "p5.48xlarge": 5}))
    assert (found.hourly, found.unknown) == (6.0, [])
    nothing = estimate(plan(group(1, percent=0), prices={"m6i.large": 1}))
    assert nothing.unknown == ["p5.48xlarge-spot"]
    assert "at least 1.00 USD an hour" in "\n".join(told(nothing))


def test_a_folder_of_somebody_elses_is_priced_by_its_machines() -> None:
    raw = {
        "planned_values": {
            "root_module": {"resources": [resource("aws_instance.a", {"instance_type": "x1"})]}
        },
        "variables": {"prices": {"value": {"x1": 2}}},
    }
    assert estimate(read_plan(raw)).hourly == 2
    assert told(estimate(read_plan({}))) == ["the plan has no machines to price"]


def test_answers_are_what_differs_from_defaults_and_is_no_secret() -> None:
    declared = {
        "name": {},
        "size": {"default": 3},
        "other": {"default": 3},
        "password": {"sensitive": True},
        "unset": {"default": None},
    }
    values = {"name": "fern", "size": 3, "other": 4, "password": "x", "unset": None}
    found = read_plan(
        {
            "variables": {key: {"value": value} for key, value in values.items()},
            "configuration": {"root_module": {"variables": declared}},
        }
    )
    assert found.answers == {"name": "fern", "other": 4}
    assert found.required == {"name", "password"}


def test_a_state_gives_its_resources_and_the_record() -> None:
    raw = {
        "values": {
            "outputs": {"dto_cluster": {"value": {"name": "fern"}}},
            "root_module": {
                "resources": [{**resource("aws_vpc.x", {"id": "v"}), "mode": "data"}],
                "child_modules": [{"resources": [resource("module.m.aws_vpc.y", {"id": "w"})]}],
            },
        }
    }
    resources, cluster = read_state(raw)
    assert [(one.address, one.id) for one in resources] == [("module.m.aws_vpc.y", "w")]
    assert cluster == {"name": "fern"}
    assert read_state({}) == ([], {})
