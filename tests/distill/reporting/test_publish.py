"""The card, its licence, and the way to the Hub, against a stand-in of its HTTP interface."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from datasets_scripts.hub import HubError, push
from distill.reporting import publish
from distill.reporting.card import CardError, check_licence, eval_results_file, model_card
from distill.reporting.publish import prepare
from distill.teachers.musicnn import NOTICE
from student import Feelprint
from tests.distill.reporting.made_report import made_report, made_run
from tests.hub_standin import TOKEN, Hub

NAME, DATASET = "alice/feelprint", "alice/feelprint-free"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    with Hub() as server:
        yield server


def send(hub, folder, token=TOKEN, name=NAME, **more):
    return push(folder, name, "model", "feelprint.onnx", "a run", api=HfApi(hub.url, token), **more)


@pytest.fixture
def run(tmp_path):
    return made_run(tmp_path / "run")


def test_the_card_is_filled_from_the_figures(run):
    card = ModelCard(model_card(run, NAME, DATASET))
    report = made_report()
    assert card.data.license == "mit"
    assert card.data.library_name == "feelprint"
    assert card.data.datasets == [DATASET]
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    for figure, value in report["figures"]["student"].items():
        assert results[figure] == pytest.approx(value["value"], abs=1e-4)
        assert f"{100 * value['value']:.1f}" in card.text
    for words in ("No person has answered", "MSD_musicnn", "GPL-2+ (30)", "Not measured: bliss"):
        assert words in card.text, words
    assert NOTICE.strip() in card.text


def test_the_card_says_how_the_model_is_initialised(tmp_path):
    said = "initialised from MSD_musicnn's filters"
    assert said in model_card(made_run(tmp_path / "from"), NAME, DATASET)
    card = model_card(made_run(tmp_path / "random", init_from=None), NAME, DATASET)
    assert "initialised from" not in card and NOTICE.strip() not in card
    assert "initialised at random" in card


def test_the_card_names_the_linear_metric_only_where_there_is_one(tmp_path):
    assert "A linear metric on top" in model_card(made_run(tmp_path / "with"), NAME, DATASET)
    run = made_run(tmp_path / "without", metric_weight=0.0)
    assert "linear metric" not in model_card(run, NAME, DATASET)


def test_a_model_that_was_trained_on_validation_says_so(tmp_path):
    said = "model is trained on the validation split too"
    assert said not in model_card(made_run(tmp_path / "train"), NAME, DATASET)
    run = made_run(tmp_path / "both", train_splits=["train", "validation"])
    assert said in model_card(run, NAME, DATASET)


def test_the_crate_carries_the_notice_of_the_network_that_initialised_its_weights():
    notice = (Path(__file__).parents[3] / "rust" / "NOTICE").read_text()
    assert " ".join(NOTICE.split()) in " ".join(notice.split())


def test_the_results_file_has_the_fields_of_its_format():
    entries = yaml.safe_load(eval_results_file(made_report(dataset=DATASET)))
    assert {e["dataset"]["task_id"] for e in entries} == set(made_report()["figures"]["student"])
    assert all(e["dataset"]["id"] == DATASET and 0 <= e["value"] <= 100 for e in entries)


def teacher(licence):
    return [{"name": "MERT", "revision": "1", "licence": licence, "hub": "m-a-p/MERT-v1-95M"}]


@pytest.mark.parametrize("licence", ["CC-BY-NC-4.0", "cc-by-nc-sa-4.0", "non-commercial use only"])
def test_a_non_commercial_teacher_forbids_a_permissive_licence(licence):
    with pytest.raises(CardError, match="the teacher MERT"):
        check_licence(made_report(teachers=teacher(licence)))
    check_licence(made_report(teachers=teacher(licence), licence="cc-by-nc-4.0"))


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-3.0", "not named"])
def test_non_commercial_or_unknown_audio_forbids_it_too(licence):
    audio = made_report()["audio"]
    audio[0]["licences"] = {"CC0-1.0": 5, licence: 2}
    with pytest.raises(CardError, match="2 tracks of the corpus free"):
        check_licence(made_report(audio=audio))


def test_names_that_only_hold_the_letters_are_not_non_commercial():
    audio = made_report()["audio"]
    audio[0]["licences"] = {"Drascula-License": 1, "GPL-2+": 1, "Licence-Ouverte": 1}
    check_licence(made_report(audio=audio, teachers=teacher("Apache-2.0")))


def test_a_teacher_of_the_hub_is_the_base_model(tmp_path):
    run = made_run(tmp_path / "run", teachers=teacher("Apache-2.0"))
    assert ModelCard(model_card(run, NAME, DATASET)).data.base_model == ["m-a-p/MERT-v1-95M"]


def test_a_dry_run_writes_exactly_what_is_uploaded(run, capsys):
    arguments = [str(run), "--to", NAME, "--dry-run"]
    assert publish.main(arguments) == 0
    folder = run / "publish"
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == {
        *publish.FILES,
        "README.md",
        "example.py",
        ".eval_results/feelprint.yaml",
    }
    compile((folder / "example.py").read_text(), "example.py", "exec")
    assert publish.main(arguments) == 0  # again: replaced, not mixed
    assert not list(run.glob(".publish-*"))


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(CardError, match="holds something else"):
        prepare(run, NAME, DATASET, other)
    assert (other / "thesis.txt").read_text() == "mine"


def test_a_run_without_a_report_says_how_to_make_it(run, capsys):
    (run / "metrics.json").write_text("{}")
    assert publish.main([str(run), "--to", NAME, "--dry-run"]) == 1
    assert "python -m distill.reporting" in capsys.readouterr().err


def test_published_it_is_private_and_loads_by_name(run, hub, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    files = prepare(run, NAME, DATASET, folder)
    assert send(hub, folder) == f"{hub.url}/{NAME}"
    assert hub.private["model", NAME]
    stored = hub.repos["model", NAME]
    assert set(files) <= set(stored)
    assert stored["feelprint.onnx"] == b"onnx of the run"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    model = Feelprint.from_pretrained(NAME, cache_dir=tmp_path / "cache", token=TOKEN)
    mine = Feelprint.from_pretrained(str(run))
    for name, value in mine.state_dict().items():
        assert (model.state_dict()[name] == value).all()


def test_public_only_when_asked(run, hub, tmp_path):
    prepare(run, NAME, DATASET, tmp_path / "out")
    send(hub, tmp_path / "out", private=False)
    assert not hub.private["model", NAME]


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        ("hf_wrong", NAME, "does not know the token"),
        (TOKEN, "bob/feelprint", "may not write to bob/feelprint"),
        (TOKEN, "feelprint", "expected owner/name"),
    ],
)
def test_a_wrong_token_or_name_is_an_error(run, hub, token, name, message):
    with pytest.raises(HubError, match=message):
        send(hub, run, token, name)
    assert hub.repos == {}


def test_anothers_work_under_the_name_is_not_overwritten(run, hub):
    hub.repos["model", NAME] = {"pytorch_model.bin": b"a thesis"}
    with pytest.raises(HubError, match="exists and is another model"):
        send(hub, run)
    assert hub.repos["model", NAME] == {"pytorch_model.bin": b"a thesis"}


@pytest.mark.parametrize("where", ["upload", "commit"])
def test_a_cut_connection_publishes_nothing_and_the_next_run_goes_on(run, hub, tmp_path, where):
    folder = tmp_path / "out"
    files = prepare(run, NAME, DATASET, folder)
    hub.cut = where
    with pytest.raises(HubError, match="run the same command again to resume"):
        send(hub, folder)
    assert hub.repos["model", NAME] == {".gitattributes": b""}
    hub.cut = ""
    send(hub, folder)
    assert set(files) <= set(hub.repos["model", NAME])


def test_the_same_run_again_updates_its_own(run, hub, tmp_path):
    prepare(run, NAME, DATASET, tmp_path / "out")
    send(hub, tmp_path / "out")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["report"]["tracks"] = 47
    (run / "metrics.json").write_text(json.dumps(metrics))
    prepare(run, NAME, DATASET, tmp_path / "out")
    send(hub, tmp_path / "out")
    assert b"47 tracks" in hub.repos["model", NAME]["README.md"]


def test_the_metric_goes_as_a_space(hub):
    push(
        publish.METRIC, "alice/triplet_accuracy", "space", "triplet_accuracy.py", "the metric",
        api=HfApi(hub.url, TOKEN),
    )  # fmt: skip
    assert "app.py" in hub.repos["space", "alice/triplet_accuracy"]


def test_no_connection_is_an_error(run, hub):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(HubError, match=r"the connection to .* failed"):
        send(hub, run)


def test_the_card_compares_with_people_or_says_that_it_does_not(run, tmp_path):
    card = model_card(run, "alice/feel", "alice/free")
    row = next(line for line in card.splitlines() if line.startswith("| this model"))
    assert "0.712 <br>[0.662, 0.762]" in row
    assert card.index("## Agreement with people") < card.index("## Metrics")  # people's come first
    assert "is fitted to these ratings" in card and "cross-validated" in card
    without = model_card(made_run(tmp_path / "without", people=None), "alice/feel", "alice/free")
    assert "Not measured: the report was made without the clips" in without
