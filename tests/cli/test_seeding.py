"""A new server has the workflows of the package, once: what a user makes of them stays."""

from __future__ import annotations

from pathlib import Path

from latentgraph.cli.folders import make_resolver, make_server_resolver
from latentgraph.cli.seeding import seed
from latentgraph.graph import (
    Document,
    FileResolver,
    InvalidWorkflow,
    build_graph,
    load_document,
    parse_document,
)
from latentgraph.nodes import default_registry
from latentgraph.server.api.settings import Settings
from latentgraph.server.files.uploads import FileStore
from latentgraph.server.jobs.store import JobStore

WORKFLOWS = Path(__file__).parents[2] / "workflows"
REGISTRY = default_registry()


def uploads(store: JobStore) -> FileStore:
    return FileStore(store.folder / "files", Settings())


def what_it_makes(document: Document, resolver: FileResolver) -> tuple[list[str], list[str]]:
    """The nodes of a document that can be run as it is, and the codes of the errors of one that can't."""
    try:
        return list(build_graph(document, REGISTRY, resolver=resolver).nodes), []
    except InvalidWorkflow as error:
        return [], sorted({problem.code for problem in error.problems if problem.severity == "error"})


async def test_the_workflows_of_the_package_are_stored_with_all_that_they_name(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path)
    names = await seed(store, uploads(store), REGISTRY)
    assert names == sorted(path.stem for path in WORKFLOWS.glob("*.yaml"))
    resolver = make_server_resolver(tmp_path / "models", store.folder / "files")
    for stored in await store.workflows.list():
        original = load_document(WORKFLOWS / f"{stored.name}.yaml")
        assert stored.document.splitlines()[0] == (WORKFLOWS / f"{stored.name}.yaml").read_text().splitlines()[0]
        there = what_it_makes(parse_document(stored.document), resolver)
        assert there == what_it_makes(original, make_resolver(tmp_path)), stored.name
        assert there[0] or there[1] == ["missing-param"], stored.name  # as of a model, which is not in the package
    digest = (await store.workflows.get("img2img")).document.partition("sha256:")[2][:64]
    assert await store.uploads.get("anybody", digest) is not None
    await store.close()


async def test_what_a_user_made_of_them_stays(tmp_path: Path) -> None:
    store = await JobStore.open(tmp_path)
    await store.workflows.put("inpaint", "mine", "application/yaml")
    assert "inpaint" not in await seed(store, uploads(store), REGISTRY)
    await store.workflows.delete("txt2img")
    await store.workflows.put("img2img", "mine", "application/yaml")
    await store.close()
    store = await JobStore.open(tmp_path)
    assert await seed(store, uploads(store), REGISTRY) == []
    stored = {one.name: one.document for one in await store.workflows.list()}
    assert (stored["inpaint"], stored["img2img"], "txt2img" in stored) == ("mine", "mine", False)
    await store.close()
