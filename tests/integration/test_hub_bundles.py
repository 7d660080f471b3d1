"""Bundles on the hub, pushed and loaded by the real client against a loopback server that stands in for the hub."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import exporter
from exporter.bundle.manifest import RECORD
from exporter.bundle.signing import SIGNATURE, Signer
from tests.conftest import SCRIPTS
from tests.support.hub import HubServer
from tests.support.keys import ec_key
from tests.support.manifests import edit_manifest
from tests.support.process import Done, refused, run_program, succeeded

REPOSITORY = "kor-sbert/demo-onnx"
TOKEN = "hf_writer"
SENTENCES = ["서랍 속에서 오래된 편지를 찾았다.", "", "The kettle whistled twice."]

ENCODE = """
import json, sys
import numpy, exporter
name, revision, sentences, out = sys.argv[1:]
with exporter.load(name, revision=revision or None) as encoder:
    numpy.save(out, encoder.encode(json.loads(sentences)))
blocked = {"torch", "transformers", "sentence_transformers", "onnx"}
print(sorted(blocked & {name.partition(".")[0] for name in sys.modules}))
"""

# The encoder goes to a process that is started anew, in another working folder, after somebody has pushed.
WORKER = """
import json, multiprocessing, os, sys
import exporter

def answer(encoder, texts):
    return encoder.encode(texts).tolist()

if __name__ == "__main__":
    name, elsewhere, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    encoder = exporter.load(name)
    print("loaded", flush=True)
    sys.stdin.readline()
    os.chdir(elsewhere)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(json.dumps(pool.apply(answer, (encoder, texts))))
"""


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def bundle(twin_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


def korsbert(hub: HubServer, cache: Path, *arguments: object, token: str | None = TOKEN, **settings: str) -> Done:
    environment = hub.environment(cache) | ({} if token is None else {"HF_TOKEN": token}) | settings
    return run_program([SCRIPTS / "korsbert", *arguments], cwd=cache.parent, environment=environment)


def pushed(hub: HubServer, cache: Path, bundle: Path, *options: str) -> dict[str, object]:
    done = korsbert(hub, cache, "push", bundle, REPOSITORY, "--json", *options)
    succeeded(done)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def encode(hub: HubServer, cache: Path, name: str, revision: str = "", **settings: str) -> Done:
    command = [sys.executable, "-c", ENCODE, name, revision, json.dumps(SENTENCES), cache.parent / "vectors.npy"]
    return run_program(command, cwd=cache.parent, environment=hub.environment(cache) | settings)


def vectors(hub: HubServer, cache: Path, name: str = REPOSITORY, revision: str = "", **settings: str) -> object:
    done = encode(hub, cache, name, revision, **settings)
    assert (done.status, done.stderr) == (0, ""), done
    assert done.stdout == "[]\n"  # neither torch nor onnx is imported
    return np.load(cache.parent / "vectors.npy")


def expected(bundle: Path) -> object:
    with exporter.load(bundle) as encoder:
        return encoder.encode(SENTENCES)


def writes(hub: HubServer) -> list[str]:
    return [request.path for request in hub.requests if request.method in {"POST", "PUT"}]


class TestPush:
    def test_one_commit_has_every_byte(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        told = pushed(hub, cache, bundle)
        there = hub.content(REPOSITORY)
        assert there.pop(".gitattributes")
        assert there == {path.name: path.read_bytes() for path in bundle.iterdir()}
        assert told["commit"] == hub.head(REPOSITORY, "main")
        assert told["url"] == f"{hub.endpoint}/{REPOSITORY}/commit/{told['commit']}"
        assert told["files"] == {name: len(content) for name, content in there.items()}
        assert len([path for path in writes(hub) if "/commit/" in path]) == 1
        assert hub.uploads.messages == ["twin fp32 on onnxruntime, by korsbert"]

    def test_in_python(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        code = "import exporter, sys; print(exporter.push(sys.argv[1], sys.argv[2], message='first').commit)"
        environment = hub.environment(cache) | {"HF_TOKEN": TOKEN}
        done = run_program([sys.executable, "-c", code, bundle, REPOSITORY], environment=environment)
        assert (done.status, done.stderr) == (0, "")
        assert done.stdout.strip() == hub.head(REPOSITORY, "main")
        assert hub.uploads.messages == ["first"]

    def test_the_token_of_a_login_is_used_and_none_is_printed(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        cache.mkdir()
        (cache / "token").write_text(TOKEN)
        done = korsbert(hub, cache, "push", bundle, REPOSITORY, token=None, HF_HUB_VERBOSITY="debug")
        assert done.status == 0
        assert TOKEN not in done.stdout + done.stderr
        assert f"korsbert.load('{REPOSITORY}', revision='{hub.head(REPOSITORY, 'main')}')" in done.stdout

    def test_a_dry_run_makes_no_request(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        done = korsbert(hub, cache, "push", bundle, REPOSITORY, "--dry-run", token=None)
        succeeded(done)
        for path in bundle.iterdir():
            assert path.name in done.stdout
        assert hub.requests == []

    def test_a_private_repository_a_branch_and_a_pull_request(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle, "--private")
        assert hub._repos[REPOSITORY].private
        first = hub.head(REPOSITORY, "main")
        edit_manifest(bundle, lambda manifest: manifest.update(created="2026-01-01T00:00:00+00:00"))
        told = pushed(hub, cache, bundle, "--revision", "int8", "--message", "another one")
        assert hub.head(REPOSITORY, "main") == first != told["commit"] == hub.head(REPOSITORY, "int8")
        told = pushed(hub, cache, bundle, "--create-pr")
        assert hub.head(REPOSITORY, "main") == first
        assert told["pull_request"] == f"{hub.endpoint}/{REPOSITORY}/discussions/1"
        assert hub.head(REPOSITORY, "refs/pr/1") == told["commit"]
        both = korsbert(hub, cache, "push", bundle, REPOSITORY, "--create-pr", "--revision", "int8")
        refused(both, 2, "--create-pr and --revision are both given")

    def test_another_bundle_replaces_all_of_the_first(
        self, hub: HubServer, cache: Path, bundle: Path, demo_fp16: Path, tmp_path: Path
    ) -> None:
        exporter.Bundle.open(bundle).sign(Signer(ec_key(tmp_path, "publisher")[0]))
        hub.change(REPOSITORY, "main", {"README.md": b"# mine\n", "LICENSE": b"text"})
        pushed(hub, cache, bundle)
        assert SIGNATURE in hub.content(REPOSITORY)
        pushed(hub, cache, demo_fp16)
        assert set(hub.content(REPOSITORY)) == {path.name for path in demo_fp16.iterdir()} | {"LICENSE"}
        np.testing.assert_array_equal(vectors(hub, cache), expected(demo_fp16))

    def test_a_repository_with_other_files_is_left_alone(
        self, hub: HubServer, cache: Path, bundle: Path, twin: Path
    ) -> None:
        commit = hub.add(REPOSITORY, twin)
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 2, f"{REPOSITORY}: holds files that are no bundle, ", "nothing was committed")
        assert hub.head(REPOSITORY, "main") == commit

    def test_a_public_repository_is_refused_where_a_private_one_is_asked_for(
        self, hub: HubServer, cache: Path, bundle: Path
    ) -> None:
        pushed(hub, cache, bundle)
        refused(korsbert(hub, cache, "push", bundle, REPOSITORY, "--private"), 2, "is public, and --private is given")

    def test_an_altered_bundle_is_refused(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        (bundle / "tokenizer.json").write_bytes((bundle / "tokenizer.json").read_bytes() + b" ")
        refused(korsbert(hub, cache, "push", bundle, REPOSITORY), 2, "tokenizer.json: altered since it was published")
        assert hub.requests == []

    def test_a_large_file_that_is_replaced_while_it_is_uploaded_is_not_committed(
        self, hub: HubServer, cache: Path, minilm_fp16: Path, tmp_path: Path
    ) -> None:
        weights = Path(shutil.copytree(minilm_fp16, tmp_path / "bundle")) / "model.onnx"
        content = bytearray(weights.read_bytes())
        assert len(content) > 10 * 2**20  # smaller files are committed as they were verified
        content[-1] ^= 1
        hub.uploads.on_preupload = lambda: weights.write_bytes(content)
        done = korsbert(hub, cache, "push", weights.parent, REPOSITORY)
        refused(done, 2, f"{weights}: altered while it was uploaded", "nothing was committed")
        assert set(hub.content(REPOSITORY)) == {".gitattributes"}

    def test_an_unvalidated_bundle_is_pushed_only_if_asked_for(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        edit_manifest(bundle, lambda manifest: manifest["validation"].update(state="pending"))
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 2, "no machine has validated it yet, so it is not pushed", "--unvalidated")
        assert hub.requests == []
        pushed(hub, cache, bundle, "--unvalidated")

    def test_a_bundle_with_a_weak_gate_is_refused(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        edit_manifest(bundle, lambda manifest: manifest["recipe"]["gates"]["fp32"].update(min_cosine=0.5))
        refused(korsbert(hub, cache, "push", bundle, REPOSITORY), 2, "min_cosine 0.5 < ", "--gates")
        assert hub.requests == []

    @pytest.mark.parametrize("name", ["demo", "a/b/c", "./a", "a b/c"])
    def test_a_name_that_is_no_hub_id(self, hub: HubServer, cache: Path, bundle: Path, name: str) -> None:
        refused(korsbert(hub, cache, "push", bundle, name), 2, repr(name), "owner/name")
        assert writes(hub) == []

    def test_no_token(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        refused(korsbert(hub, cache, "push", bundle, REPOSITORY, token=None), 3, "there is no token", "HF_TOKEN")
        assert hub.requests == []

    @pytest.mark.parametrize("token", ["hf_reader", "hf_unknown"])
    def test_a_token_that_may_not_write(self, hub: HubServer, cache: Path, bundle: Path, token: str) -> None:
        done = korsbert(hub, cache, "push", bundle, REPOSITORY, token=token)
        refused(done, 3, "the hub does not let this token write there; nothing was committed", "hf auth whoami")
        assert token not in done.stderr

    def test_offline(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        done = korsbert(hub, cache, "push", bundle, REPOSITORY, HF_HUB_OFFLINE="1")
        refused(done, 3, f"{REPOSITORY}: HF_HUB_OFFLINE is set")
        assert hub.requests == []

    @pytest.mark.parametrize(
        ("part", "status"), [("/lfs/", 400), ("/preupload/", 400), ("/api/validate-yaml", 400), ("/commit/", 500)]
    )
    def test_what_is_left_behind_is_said(
        self, hub: HubServer, cache: Path, bundle: Path, part: str, status: int
    ) -> None:
        hub.uploads.fail(part, status)
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 3, f"nothing was committed, {REPOSITORY} was created, and is empty")
        assert set(hub.content(REPOSITORY)) == {".gitattributes"}
        hub.uploads.failures.clear()
        pushed(hub, cache, bundle)
        np.testing.assert_array_equal(vectors(hub, cache), expected(bundle))

    def test_a_commit_whose_answer_is_lost_is_not_called_undone(
        self, hub: HubServer, cache: Path, bundle: Path
    ) -> None:
        hub.uploads.answers_get_lost = True
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 3, "it is not known whether the commit was made")
        assert "nothing was committed" not in done.stderr
        assert len(hub.content(REPOSITORY)) == 1 + len(list(bundle.iterdir()))

    def test_somebody_who_pushes_meanwhile_is_not_overwritten(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        edit_manifest(bundle, lambda manifest: manifest.update(created="2026-01-01T00:00:00+00:00"))
        hub.uploads.on_commit = lambda: hub.change(REPOSITORY, "main", {"README.md": b"theirs"})
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 3, "somebody has pushed meanwhile; nothing was committed")
        assert hub.content(REPOSITORY)["README.md"] == b"theirs"

    def test_a_file_that_the_repository_ignores_is_missed(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        hub.uploads.ignored.add("ranges.json")
        done = korsbert(hub, cache, "push", bundle, REPOSITORY)
        refused(done, 2, "the commit has no ranges.json; the commit ", "is on the hub", ".gitignore")

    def test_a_push_of_the_same_bytes_makes_no_commit(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        first = pushed(hub, cache, bundle)["commit"]
        done = korsbert(hub, cache, "push", bundle, REPOSITORY, "--json")
        assert done.status == 0
        assert json.loads(done.stdout)["commit"] == first
        assert len(hub.uploads.messages) == 1


class TestLoad:
    def test_vectors_are_those_of_the_folder(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        commit = pushed(hub, cache, bundle)["commit"]
        np.testing.assert_array_equal(vectors(hub, cache), expected(bundle))
        for name, revision in ((REPOSITORY, "main"), (REPOSITORY, str(commit)), (f"{REPOSITORY}@{commit}", "")):
            np.testing.assert_array_equal(vectors(hub, cache, name, revision), expected(bundle))

    def test_a_commit_in_the_cache_needs_no_request(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        commit = str(pushed(hub, cache, bundle)["commit"])
        vectors(hub, cache)
        hub.requests.clear()
        vectors(hub, cache, revision=commit)
        assert hub.requests == []

    def test_offline(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        refused_offline = encode(hub, cache, REPOSITORY, HF_HUB_OFFLINE="1")
        assert "HubError" in refused_offline.stderr
        assert "not in the local cache, and HF_HUB_OFFLINE is set" in refused_offline.stderr
        vectors(hub, cache)
        hub.stop()
        np.testing.assert_array_equal(vectors(hub, cache, HF_HUB_OFFLINE="1"), expected(bundle))

    def test_only_what_the_manifest_lists_is_downloaded(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        hub.change(REPOSITORY, "main", {"onnx/model.onnx": b"x" * 1000, "custom.py": b"raise SystemExit"})
        np.testing.assert_array_equal(vectors(hub, cache), expected(bundle))
        (snapshot,) = (cache / "hub").glob(f"models--*/snapshots/{hub.head(REPOSITORY, 'main')}")
        assert {path.name for path in snapshot.iterdir()} == {path.name for path in bundle.iterdir()}

    def test_a_folder_of_that_name_wins(self, hub: HubServer, cache: Path, bundle: Path, demo_fp16: Path) -> None:
        pushed(hub, cache, bundle)
        shutil.copytree(demo_fp16, cache.parent / REPOSITORY)
        hub.requests.clear()
        np.testing.assert_array_equal(vectors(hub, cache), expected(demo_fp16))
        assert hub.requests == []
        done = encode(hub, cache, REPOSITORY, "main")
        assert "`revision` is given, and kor-sbert/demo-onnx is not a bundle on the hub" in done.stderr

    def test_what_was_altered_on_the_hub_is_refused(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        hub.change(REPOSITORY, "main", {"ranges.json": b"{}"})
        refused(korsbert(hub, cache, "show", REPOSITORY), 2, "ranges.json: altered since it was published")

    def test_what_was_altered_in_the_cache_is_refused(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        vectors(hub, cache)
        (weights,) = (cache / "hub").glob("models--*/snapshots/*/model.onnx")
        stored = weights.resolve()
        data = bytearray(stored.read_bytes())
        data[len(data) // 2] ^= 1
        stored.write_bytes(data)
        done = korsbert(hub, cache, "show", REPOSITORY)
        refused(done, 2, "model.onnx: altered since it was published", f"delete {stored}")

    def test_a_cut_download_is_resumed_by_the_next_try(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        pushed(hub, cache, bundle)
        hub.cut_after("model.onnx", 100_000, reset=True)
        done = korsbert(hub, cache, "show", REPOSITORY)
        refused(done, 3, REPOSITORY, "cannot be reached or disconnected", "a broken download is resumed")
        np.testing.assert_array_equal(vectors(hub, cache), expected(bundle))

    def test_a_repository_without_a_manifest(self, hub: HubServer, cache: Path, twin: Path) -> None:
        hub.add(REPOSITORY, twin)
        done = korsbert(hub, cache, "show", REPOSITORY)
        refused(done, 2, f"{REPOSITORY}: not a korsbert bundle: there is no manifest.json")
        assert not any("pytorch_model.bin" in request.path for request in hub.requests)

    def test_no_such_repository_or_revision(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        refused(korsbert(hub, cache, "show", "kor-sbert/nothing"), 2, "the hub has no such model, or it is private")
        pushed(hub, cache, bundle)
        refused(korsbert(hub, cache, "show", f"{REPOSITORY}@v9"), 2, f"{REPOSITORY}: the hub has no revision 'v9'")

    def test_a_hub_that_is_down(self, hub: HubServer, cache: Path) -> None:
        hub.stop()
        done = korsbert(hub, cache, "show", REPOSITORY)
        refused(done, 3, f"the hub at {hub.endpoint} cannot be reached", "give the folder of a bundle")

    def test_a_signature_is_required_through_the_hub(
        self, hub: HubServer, cache: Path, bundle: Path, tmp_path: Path
    ) -> None:
        private, public = ec_key(tmp_path, "publisher")
        command = ("validate", REPOSITORY, "--golden", "none", "--require-signature", public)
        pushed(hub, cache, bundle)
        refused(korsbert(hub, cache, *command), 2, "not signed, and a signature by")
        exporter.Bundle.open(bundle).sign(Signer(private))
        pushed(hub, cache, bundle)
        refused(korsbert(hub, cache, *command), 2, "none: cannot be read")  # the signature was accepted before

    def test_a_worker_process_opens_the_same_commit(
        self, hub: HubServer, cache: Path, bundle: Path, demo_fp16: Path, tmp_path: Path
    ) -> None:
        pushed(hub, cache, bundle)
        script, elsewhere = tmp_path / "worker.py", tmp_path / "elsewhere"
        script.write_text(WORKER)
        shutil.copytree(demo_fp16, elsewhere / REPOSITORY)  # a folder of that name, which is not what was loaded
        process = subprocess.Popen(
            [sys.executable, script, REPOSITORY, elsewhere, json.dumps(SENTENCES)],
            env=hub.environment(cache) | {"OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "loaded\n"
        pushed(hub, tmp_path / "other-cache", demo_fp16)
        out, _ = process.communicate("\n", timeout=300)
        assert process.returncode == 0
        np.testing.assert_array_equal(np.array(json.loads(out), np.float32), expected(bundle))


class TestCommands:
    def test_show_says_the_commit(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        commit = pushed(hub, cache, bundle)["commit"]
        done = korsbert(hub, cache, "show", REPOSITORY)
        assert (done.status, done.stderr) == (0, "")
        assert f"{commit}, in " in done.stdout
        assert json.loads(korsbert(hub, cache, "show", REPOSITORY, "--json").stdout)["commit"] == commit

    def test_encode_embed_bench_and_ship(self, hub: HubServer, cache: Path, bundle: Path, tmp_path: Path) -> None:
        pushed(hub, cache, bundle)
        (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in SENTENCES if text), encoding="utf-8")
        for command in (
            ("encode", REPOSITORY, "texts.txt", "--out", "vectors.npy"),
            ("embed", REPOSITORY, "texts.txt", "--out", "parquet"),
            ("bench", REPOSITORY, "--rounds", "1", "--text", "texts.txt"),
            ("ship", REPOSITORY, "--repository", "triton", "--no-measure"),
        ):
            done = korsbert(hub, cache, *command)
            assert done.status == 0, done
        assert len(np.load(tmp_path / "vectors.npy")) == 2
        (shipped,) = (tmp_path / "triton").rglob("model.onnx")
        assert shipped.read_bytes() == (bundle / "model.onnx").read_bytes()
        assert not shipped.is_symlink()

    def test_compare(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        commit = pushed(hub, cache, bundle)["commit"]
        done = korsbert(hub, cache, "compare", f"{REPOSITORY}@{commit}", bundle, "--json")
        assert done.status == 0, done
        refused(
            korsbert(hub, cache, "compare", "no/such", bundle), 2, "no/such: there is no such folder here, and the hub"
        )
        refused(korsbert(hub, cache, "compare", "no/such.npy", bundle), 2, "no/such.npy: ")
        assert not any("such.npy" in request.path for request in hub.requests)

    def test_a_validation_is_not_recorded_in_the_cache(self, hub: HubServer, cache: Path, bundle: Path) -> None:
        edit_manifest(bundle, lambda manifest: manifest["validation"].update(state="pending"))
        pushed(hub, cache, bundle, "--unvalidated")
        done = korsbert(hub, cache, "validate", REPOSITORY, "--record")
        refused(done, 2, "a validation is recorded in a folder", "hf download")
        assert not list(cache.rglob(RECORD))
