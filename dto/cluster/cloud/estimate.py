"""What a cluster will cost an hour, out of its plan and its own price table; nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dto.cluster.cloud.planned import Planned, Resource
from dto.cluster.cloud.text import duration, money, table

_GROUP = "aws_autoscaling_group"
_VM = ("aws_instance", "nebius_compute_v1_instance")


@dataclass(frozen=True)
class Machines:
    """Machines of one kind; `each` is None where no price is known."""

    what: str
    instance_type: str
    count: int
    spot: bool = False
    each: float | None = None

    @property
    def hourly(self) -> float | None:
        return None if self.each is None else self.each * self.count


@dataclass(frozen=True)
class Estimate:
    machines: tuple[Machines, ...]
    amount: float | None = None
    """The budget, in the currency of the prices."""
    hours: float | None = None
    """The budget in node-hours."""

    @property
    def hourly(self) -> float:
        return sum(found.hourly or 0.0 for found in self.machines)

    @property
    def unknown(self) -> list[str]:
        """What to write a price for, as the table spells it."""
        missing = [found for found in self.machines if found.each is None and found.count]
        return sorted({price_key(found.instance_type, found.spot) for found in missing})

    @property
    def hours_left(self) -> float | None:
        """How long the budget lasts if everything runs all the time; None: without end."""
        nodes = sum(found.count for found in self.machines if found.what != "head")
        limits = []
        if self.amount is not None and self.hourly:
            limits.append(self.amount / self.hourly)
        if self.hours is not None and nodes:
            limits.append(self.hours / nodes)
        return min(limits, default=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "currency": "USD",
            "machines": [
                {
                    "what": found.what,
                    "instance_type": found.instance_type,
                    "count": found.count,
                    "spot": found.spot,
                    "each": found.each,
                }
                for found in self.machines
            ],
            "hourly": round(self.hourly, 4),
            "daily": round(24 * self.hourly, 2),
            "unknown": self.unknown,
            "budget": {"amount": self.amount, "hours": self.hours, "hours_left": self.hours_left},
        }


def price_key(instance_type: str, spot: bool) -> str:
    return f"{instance_type}-spot" if spot else instance_type


def price_of(
    instance_type: str, spot: bool, prices: Mapping[str, float], own: float | None = None
) -> float | None:
    """Return an hour's price: the machine's own, that of spot, that of its type, or None."""
    if own is not None:
        return own
    found = prices.get(price_key(instance_type, spot)) if spot else None
    return prices.get(instance_type) if found is None else found


def estimate(planned: Planned) -> Estimate:
    """Work a plan out; where it has no `dto_cluster`, its machines alone are counted."""
    cluster = planned.cluster
    prices = cluster.get("prices") or planned.variables.get("prices") or {}
    machines = _of_cluster(planned, prices) if cluster.get("head") else []
    machines = machines or _of_resources(planned.resources, prices)
    budget = cluster.get("budget") or {}
    return Estimate(_summed(machines), budget.get("amount"), budget.get("hours"))


def _of_cluster(planned: Planned, prices: Mapping[str, float]) -> list[Machines]:
    head = planned.cluster["head"]
    found = [_machine("head", head, prices)]
    for node in planned.cluster.get("nodes") or ():
        found.append(_machine(str(node.get("group") or "node"), node, prices))
    if len(found) == 1:
        found += _of_groups(planned, prices)
    if len(found) == 1:
        known = str(head.get("instance_type") or "")
        others = _of_resources(planned.resources, prices)
        found += [one for one in others if one.instance_type != known]
    return found


def _machine(what: str, host: Mapping[str, Any], prices: Mapping[str, float]) -> Machines:
    kind, spot = str(host.get("instance_type") or "?"), bool(host.get("spot"))
    return Machines(what, kind, 1, spot, price_of(kind, spot, prices, host.get("hourly_usd")))


def _of_groups(planned: Planned, prices: Mapping[str, float]) -> list[Machines]:
    """AWS: the nodes are not in the plan one by one, their auto-scaling groups are."""
    names = list(planned.cluster.get("node_groups") or {})
    what = names[0] if len(names) == 1 else "node"
    found = []
    for group in planned.resources:
        if group.type == _GROUP:
            count = int(group.values.get("desired_capacity") or 0)
            kind = _type_of(group.values) or str(planned.variables.get("instance_type") or "?")
            on_demand = _on_demand(group.values, count)
            for number, spot in ((on_demand, False), (count - on_demand, True)):
                if number:
                    price = price_of(kind, spot, prices)
                    found.append(Machines(what, kind, number, spot, price))
    return found


def _type_of(values: Mapping[str, Any]) -> str:
    """The type that a group tries first."""
    for policy in values.get("mixed_instances_policy") or ():
        for template in policy.get("launch_template") or ():
            for override in template.get("override") or ():
                return str(override.get("instance_type") or "")
    return ""


def _on_demand(values: Mapping[str, Any], count: int) -> int:
    """How many of a group's machines are no spot instances."""
    for policy in values.get("mixed_instances_policy") or ():
        for mix in policy.get("instances_distribution") or ():
            base = min(int(mix.get("on_demand_base_capacity") or 0), count)
            percent = mix.get("on_demand_percentage_above_base_capacity")
            above = (count - base) * (100 if percent is None else int(percent))
            return base + -(-above // 100)
    return count


def _of_resources(resources: Iterable[Resource], prices: Mapping[str, float]) -> list[Machines]:
    found = []
    for resource in resources:
        if resource.type in _VM:
            kind, spot = _kind(resource)
            found.append(Machines("machine", kind, 1, spot, price_of(kind, spot, prices)))
    return found


def _kind(resource: Resource) -> tuple[str, bool]:
    values = resource.values
    if resource.type == "aws_instance":
        return str(values.get("instance_type") or "?"), bool(values.get("instance_market_options"))
    shape = values.get("resources") or {}
    return f"{shape.get('platform')}/{shape.get('preset')}", bool(values.get("preemptible"))


def _summed(machines: Iterable[Machines]) -> tuple[Machines, ...]:
    counts: dict[tuple[str, str, bool, float | None], int] = {}
    for one in machines:
        key = (one.what, one.instance_type, one.spot, one.each)
        counts[key] = counts.get(key, 0) + one.count
    return tuple(
        Machines(what, kind, count, spot, each)
        for (what, kind, spot, each), count in counts.items()
    )


def told(found: Estimate) -> list[str]:
    """Return the estimate for people; disks, network and storage are not in it."""
    if not found.machines:
        return ["the plan has no machines to price"]
    rows = [
        (
            one.what + (" (spot)" if one.spot else ""),
            one.instance_type,
            str(one.count),
            money(one.each),
            money(one.hourly),
        )
        for one in found.machines
    ]
    least = "at least " if found.unknown else ""
    day = 24 * found.hourly
    text = f"machines: {least}{money(found.hourly)} USD an hour, {money(day)} USD a day"
    lines = [
        table(("what", "type", "count", "USD/h each", "USD/h"), rows),
        f"{text} (disks, network and storage come on top)",
    ]
    if found.hours_left is not None:
        parts = [f"{money(found.amount)} USD" if found.amount is not None else ""]
        parts += [f"{found.hours:g} node-hours" if found.hours is not None else ""]
        budget = " and ".join(part for part in parts if part)
        lines.append(f"the budget of {budget} lasts {duration(found.hours_left)}")
    elif found.amount is None and found.hours is None:
        lines.append("no budget is set: nothing switches the nodes off")
    if found.unknown:
        missing = ", ".join(found.unknown)
        lines.append(f"no price is known for {missing}: write it into `prices`")
    return lines
