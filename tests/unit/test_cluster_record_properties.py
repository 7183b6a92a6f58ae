"""Whatever record can be made, it survives being written, and Ansible can read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dto.cluster.ansible_inventory import Operator, ansible_inventory
from dto.cluster.draft import draft_from_flags, draft_from_record, known_names
from dto.cluster.inventory import DtoCluster, parse_record
from dto.cluster.sources import flag_values, load_record
from dto.errors import ConfigError

LINES = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="{#"), max_size=12
)
WORDS = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
GPUS = st.integers(0, 4)


@st.composite
def groups(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(["gpu", "cpu", "big"]), unique=True, max_size=3)):
        gpus = draw(GPUS)
        found[name] = {"gpus": gpus, "features": draw(st.lists(WORDS, max_size=2))}
        if gpus and draw(st.booleans()):
            found[name]["gpu_files"] = [f"/dev/fake[0-{gpus - 1}]"]
    return found


@st.composite
def records(draw: st.DrawFn) -> DtoCluster:
    node_groups = draw(groups())
    known = list(node_groups) or ["gpu", "cpu"]
    nodes = []
    for number in range(draw(st.integers(0, 4))):
        node: dict[str, Any] = {"name": f"n{number}", "address": f"10.0.0.{number + 2}"}
        for key, value in (
            ("group", st.sampled_from(known)),
            ("gpus", GPUS),
            ("features", st.lists(WORDS, max_size=2)),
            ("public_address", st.just(f"198.51.100.{number}")),
            ("hourly_usd", st.floats(0, 1000)),
        ):
            if (key == "group" and len(node_groups) > 1) or draw(st.booleans()):
                node[key] = draw(value)
        nodes.append(node)
    raw: dict[str, Any] = {
        "name": draw(WORDS),
        "region": draw(LINES),
        "head": {"name": "h", "address": "10.0.0.1", "local": draw(st.booleans())},
        "nodes": nodes,
        "node_groups": node_groups,
        "bucket": draw(st.none() | LINES),
        "ssh": {"key": draw(LINES.filter(lambda t: t.startswith("/")) | st.just("/k"))},
        "prices": draw(st.none() | st.dictionaries(WORDS, st.floats(0, 99), max_size=2)),
        "users": [{"name": "ada", "uid": 2001}] if draw(st.booleans()) else [],
    }
    return parse_record(raw, "drawn")


@given(records())
def test_a_record_that_is_written_and_read_is_the_same(found: DtoCluster) -> None:
    assert parse_record(found.to_json(), "json") == found
    again = parse_record(yaml.safe_load(found.to_yaml()), "yaml")
    assert again == found and again.to_yaml() == found.to_yaml()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(records())
def test_a_saved_file_is_the_same_too(tmp_path: Path, found: DtoCluster) -> None:
    path = tmp_path / "record.yaml"
    path.write_text(found.to_yaml(), "utf-8")
    assert load_record(path) == found


@given(records())
def test_the_inventory_is_json_and_names_each_host_once(found: DtoCluster) -> None:
    inventory = ansible_inventory(found, Operator(known_hosts=Path("/k")))
    assert json.loads(json.dumps(inventory)) == inventory
    names = [host.name for host in found.members]
    assert sorted(inventory["_meta"]["hostvars"]) == sorted(set(names)) == sorted(names)


@given(records())
def test_applying_a_record_to_itself_changes_nothing(found: DtoCluster) -> None:
    draft = draft_from_record(found, found)
    assert draft.record == found and draft.record.to_yaml() == found.to_yaml()
    assert not draft.notes and not draft.gone


@given(records())
def test_the_flags_of_a_second_run_change_nothing(found: DtoCluster) -> None:
    addresses = [node.address for node in found.nodes]
    said = flag_values(found.name, found.head.address, addresses, names=known_names(found))
    draft = draft_from_flags(found, said)
    assert draft.record == found and draft.record.to_yaml() == found.to_yaml()


@given(records())
def test_leaving_and_coming_back_is_the_same_cluster(found: DtoCluster) -> None:
    for node in found.nodes:
        back = found.without_node(node.name).with_node(node)
        assert sorted(back.nodes, key=lambda n: n.name) == sorted(found.nodes, key=lambda n: n.name)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted(DtoCluster.model_fields)) | st.text(max_size=4),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_nonsense_is_refused_in_one_line(raw: Any) -> None:
    full = {"name": "lab", "head": {"name": "h", "address": "a"}}
    for one in (raw, {**full, **raw} if isinstance(raw, dict) else raw):
        try:
            parse_record(one, "drawn")
        except ConfigError as error:
            assert str(error).startswith("drawn: ") and len(str(error).splitlines()) == 1
