"""The command `webhook-secret`: the secret that signs the calls of one address, as the server beside it makes them."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from latentgraph.cli.main import app
from latentgraph.server.webhooks.signing import load_key, secret_of, secret_text, sign, verify


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["webhook-secret", *map(str, words)])


def test_it_is_the_secret_that_a_server_signs_with(tmp_path: Path) -> None:
    shown = call("https://example.com/done", "--data", tmp_path)
    assert (shown.exit_code, shown.stderr) == (0, "")
    secret = secret_of(load_key(tmp_path), "https://example.com/done?job=7")
    assert shown.stdout == f"{secret_text(secret)}\n"
    verify(shown.stdout.strip(), sign(secret, "id", 1, b"body"), b"body", now=1)
    assert call("https://example.com/done?other", "--data", tmp_path).stdout == shown.stdout


def test_what_is_no_webhook_or_no_data_folder_is_told_as_such(tmp_path: Path) -> None:
    for words in (("example.com", "--data", tmp_path), ("https://example.com", "--data", tmp_path / "none")):
        result = call(*words)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "error: " in result.stderr
