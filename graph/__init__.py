"""The engine: from a document to results, without knowing what any node computes.

One trip of data: `load_document` reads a file into a Document; `build_graph` checks it against a Registry and gives a Graph, or
every problem at once; `cache_keys` names each result; `make_plan` says what must be computed; a `Scheduler` computes it and
reports events and a RunResult. Up to the plan these are functions of values; only the scheduler has time, threads and state.

Nothing here imports torch, a node, or HTTP. The tensors that travel between nodes are opaque; a ValueCodec, passed in, writes
them down.
"""

from .build import build_graph
from .bundling import bundle
from .cache import Cache, Hit, MemoryCache, NoCache, TieredCache
from .context import Context
from .dag import Graph, GraphNode, Link
from .disk import DiskCache, DiskUse
from .document import Document
from .errors import (
    FileNotUsable,
    InvalidWorkflow,
    LatentGraphError,
    NodeDefinitionError,
    NodeFailed,
    RunCancelled,
    UnknownTarget,
)
from .events import (
    Event,
    NodeErred,
    NodeFinished,
    NodeProgress,
    NodeReused,
    NodeSaved,
    NodeStarted,
    NodeWarned,
    OnEvent,
    RunFinished,
    RunStarted,
)
from .explain import Explanation, History, all_key_parts, explain
from .facts import ABSENT, Facts, Known, OutputFacts
from .files import Companion, FileInput, FileResolver, FilesInText, FolderResolver
from .fingerprints import Fingerprints
from .flatten import flat_document
from .keys import Keys, cache_keys
from .node import ComfyName, Lane, Node, NodeSpec
from .params import Param
from .plan import Plan, make_plan
from .problems import Problem
from .reading import document_from_tree, load_document, parse_document
from .registry import Registry
from .run import NodeReport, Run, RunResult
from .scheduler import DEFAULT_LANES, Scheduler
from .schema import json_schema
from .source import Limits
from .switch import Switch
from .values import Buffer, Packed, PlainCodec, ValueCodec

__all__ = [
    "ABSENT",
    "DEFAULT_LANES",
    "Buffer",
    "Cache",
    "ComfyName",
    "Companion",
    "Context",
    "DiskCache",
    "DiskUse",
    "Document",
    "Event",
    "Explanation",
    "Facts",
    "FileInput",
    "FileNotUsable",
    "FileResolver",
    "FilesInText",
    "Fingerprints",
    "FolderResolver",
    "Graph",
    "GraphNode",
    "History",
    "Hit",
    "InvalidWorkflow",
    "Keys",
    "Known",
    "Lane",
    "LatentGraphError",
    "Limits",
    "Link",
    "MemoryCache",
    "NoCache",
    "Node",
    "NodeDefinitionError",
    "NodeErred",
    "NodeFailed",
    "NodeFinished",
    "NodeProgress",
    "NodeReport",
    "NodeReused",
    "NodeSaved",
    "NodeSpec",
    "NodeStarted",
    "NodeWarned",
    "OnEvent",
    "OutputFacts",
    "Packed",
    "Param",
    "PlainCodec",
    "Plan",
    "Problem",
    "Registry",
    "Run",
    "RunCancelled",
    "RunFinished",
    "RunResult",
    "RunStarted",
    "Scheduler",
    "Switch",
    "TieredCache",
    "UnknownTarget",
    "ValueCodec",
    "all_key_parts",
    "build_graph",
    "bundle",
    "cache_keys",
    "document_from_tree",
    "explain",
    "flat_document",
    "json_schema",
    "load_document",
    "make_plan",
    "parse_document",
]
