# SPDX-License-Identifier: Apache-2.0
"""Files of --manifests against a running agent: any order, any mishap."""

from __future__ import annotations

import json

import yaml

from tests.e2e.scene import App, Scene, service_names
from tests.lab import manifests
from tests.lab.agent import Agent
from tests.lab.manifests import Object
from tests.lab.waiting import wait_for


def _problems(agent: Agent) -> str:
    return json.dumps(agent.status()["problems"])


def _await_problem(agent: Agent, text: str) -> None:
    wait_for(lambda: text in _problems(agent), 5, f"status to name {text}", 0.05)


def _await_no_problem(agent: Agent, text: str) -> None:
    wait_for(lambda: text not in _problems(agent), 5, f"status to forget {text}", 0.05)


def test_slice_may_come_before_its_service(scene: Scene) -> None:
    """Endpoints first, service second."""
    app, pods = scene.app("slicefirst"), scene.cluster.pods[:2]
    scene.put("slicefirst-1.json", *app.slices(pods))
    scene.put("slicefirst-2.json", app.service())
    scene.await_backends(app, pods)


def test_service_may_come_before_its_slice(scene: Scene) -> None:
    """Service first: it refuses until its endpoints come."""
    app, pods = scene.app("servicefirst"), scene.cluster.pods[2:4]
    scene.put("servicefirst-1.json", app.service())
    for node in scene.cluster.nodes:
        scene.await_error(node, app.tcp(4), "ECONNREFUSED")
    scene.put("servicefirst-2.json", *app.slices(pods))
    scene.await_backends(app, pods)


def test_removed_files_leave_nothing(scene: Scene) -> None:
    """Removing service and slices, in either order, takes every entry out of the maps."""
    for number, order in enumerate((("svc", "eps"), ("eps", "svc"))):
        app = scene.app(f"gone{number}")
        scene.put("gone-svc.json", app.service())
        scene.put("gone-eps.json", *app.slices(scene.cluster.pods))
        scene.await_backends(app, scene.cluster.pods)
        for part in order:
            scene.drop(f"gone-{part}.json")
        for agent in scene.agents:
            wait_for(
                lambda a=agent, n=app.name: n not in service_names(a.services()),  # type: ignore[misc]  # mypy can't infer a lambda with defaults
                5,
                f"{app.name} to leave the maps",
            )


def test_yaml_of_several_documents(scene: Scene) -> None:
    """What kubectl takes: documents separated by ---, an empty one among them."""
    app, pods = scene.app("yaml"), scene.cluster.pods[1:3]
    text = yaml.safe_dump_all([app.service(), *app.slices(pods)])
    manifests.replace(scene.directory, "several.yaml", f"---\n{text}\n---\n# nothing\n")
    scene.await_backends(app, pods)


def test_file_written_in_place(scene: Scene) -> None:
    """A file that is opened and rewritten counts when it is closed."""
    app, pods = scene.app("inplace"), scene.cluster.pods[:2]
    scene.run(app, pods[:1])
    body = {"kind": "List", "apiVersion": "v1", "items": [app.service(), *app.slices(pods[1:])]}
    (scene.directory / f"{app.name}.json").write_text(json.dumps(body))
    scene.await_backends(app, pods[1:])


def test_malformed_object_among_good_ones(scene: Scene) -> None:
    """The good objects work, the bad one is reported with its name, and mended when it is."""
    app, pods = scene.app("beside"), scene.cluster.pods[:2]
    bad = _broken_service(scene.app("broken"))
    scene.put("beside.json", app.service(), bad, *app.slices(pods))
    scene.await_backends(app, pods)
    for agent in scene.agents:
        _await_problem(agent, bad["metadata"]["name"])
        assert agent.status()["counts"]["malformed"] >= 1
    scene.put("beside.json", app.service(), *app.slices(pods))
    for agent in scene.agents:
        _await_no_problem(agent, bad["metadata"]["name"])
    scene.await_backends(app, pods)


def _broken_service(app: App) -> Object:
    service = app.service()
    service["spec"]["ports"] = [{"port": "eighty"}]
    return service


def test_file_that_stops_parsing_keeps_its_objects(scene: Scene) -> None:
    """The last good objects stay in force and the file is reported until it is mended."""
    app, pods = scene.app("torn"), scene.cluster.pods[3:5]
    scene.run(app, pods)
    filename = f"{app.name}.json"
    manifests.replace(scene.directory, filename, '{"kind": "Service", ')
    for agent in scene.agents:
        _await_problem(agent, filename)
    scene.await_backends(app, pods)
    scene.run(app, pods[:1])
    for agent in scene.agents:
        _await_no_problem(agent, filename)


def test_object_in_two_files_comes_from_the_first_by_name(scene: Scene) -> None:
    """The second is reported and takes over when the first is removed."""
    app = scene.app("twice")
    first, second = [scene.cluster.pods[0]], [scene.cluster.pods[3]]
    scene.put("twice-b.json", app.service(), *app.slices(second))
    scene.await_backends(app, second)
    scene.put("twice-a.json", *app.slices(first))
    scene.await_backends(app, first)
    for agent in scene.agents:
        _await_problem(agent, "twice-b.json")
    scene.drop("twice-a.json")
    scene.await_backends(app, second)
    for agent in scene.agents:
        _await_no_problem(agent, "twice-b.json")


def test_other_files_are_ignored(scene: Scene) -> None:
    """Dot files and other suffixes are nobody's objects; a later file proves that time passed."""
    hidden, shown = scene.app("hidden"), scene.app("shown")
    pods = scene.cluster.pods[:1]
    text = json.dumps({"kind": "List", "items": [hidden.service(), *hidden.slices(pods)]})
    for filename in (".hidden.json", "hidden.json.bak", "hidden.txt"):
        manifests.replace(scene.directory, filename, text)
    scene.run(shown, pods)
    for agent in scene.agents:
        assert hidden.name not in service_names(agent.services())
