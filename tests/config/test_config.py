import os

import numpy as np
import paddle
import pytest
import yaml

from paddleseg_psp.config import Config, apply_overrides, read_yaml, resolve_path
from paddleseg_psp.data.transforms import Pipeline
from paddleseg_psp.engine.views import Views
from paddleseg_psp.errors import UserError
from tests.helpers import ROOT, TINY

SEED = "configs/psanet/psanet_resnet50_os8_cityscapes_1024x512_80k.yml"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_values_are_merged_over_those_of_the_bases(tmp_path):
    (tmp_path / "base.yml").write_text("a: 1\nb: {x: 1, y: 2}\nc: {x: 1}\n")
    (tmp_path / "leaf.yml").write_text("_base_: base.yml\na: 2\nb: {y: 3}\nc: {_inherited_: false, z: 1}\n")
    assert read_yaml(str(tmp_path / "leaf.yml")) == {"a": 2, "b": {"x": 1, "y": 3}, "c": {"z": 1}}


def test_numbers_without_a_point_are_numbers(tmp_path):
    (tmp_path / "file.yml").write_text("a: 1e-5\nb: 4.0e-5\nc: 1024x512\n")
    assert read_yaml(str(tmp_path / "file.yml")) == {"a": 1e-5, "b": 4e-5, "c": "1024x512"}


@pytest.mark.parametrize(
    "text, value",
    [
        ("010", 10),  # YAML 1.1 has 8
        ("08", 8),  # and a text
        ("1_000", 1000),
        ("0x10", 16),
        ("-.5", -0.5),
        ("1e5", 1e5),
        ("1:30", "1:30"),  # 90
        ("2024-01-02", "2024-01-02"),  # a day
        ("2024-13-45", "2024-13-45"),  # a traceback
        ("0x_", "0x_"),  # the same
    ],
)
def test_numbers_are_what_they_look_like(tmp_path, text, value):
    (tmp_path / "file.yml").write_text(f"a: {text}\n")
    data = {}
    apply_overrides(data, [f"a={text}"])
    assert read_yaml(str(tmp_path / "file.yml")) == data == {"a": value}


def test_what_a_configuration_prints_is_read_alike(write_config, tmp_path):
    """By this package, and by YAML 1.1."""
    numbers = {"learning_rate": 1e-5, "power": 0.5, "end_lr": 0, "warmup_start_lr": 1e-30}
    config = Config(write_config(lr_scheduler={"type": "PolynomialDecay", **numbers}))
    config.data["val_dataset"]["class_names"] = ["010", "08", "1e5", "1:30", "2024-01-02", "yes", "-.5", "null", "sky", "1_0"]
    (tmp_path / "again.yml").write_text(str(config))
    assert read_yaml(str(tmp_path / "again.yml")) == yaml.safe_load(str(config)) == config.data


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_files_of_other_editors(tmp_path, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "file.yml").write_bytes(f"{mark}a: größe 街\r\nb: 1\r\n".encode(encoding))
    assert read_yaml(str(tmp_path / "file.yml")) == {"a": "größe 街", "b": 1}
    (tmp_path / "file.yml").write_bytes("# größe\na: 1\n".encode("latin-1"))
    with pytest.raises(UserError, match="file.yml is no valid YAML: .*; save it as UTF-8"):
        read_yaml(str(tmp_path / "file.yml"))


def test_a_key_with_two_values_is_refused(tmp_path, capsys):
    path = tmp_path / "file.yml"
    path.write_text("a: 1\nmodel:\n  x: {y: 1,\n      z: 2, y: 3}\n")
    with pytest.raises(UserError, match="file.yml, line 4: the key 'y' is given twice, in line 3 first, with different"):
        read_yaml(str(path))
    for value in ("{x: {y: 1, y: 2}}", "{'x': [{'y': 1, 'y': 2}]}"):
        with pytest.raises(UserError, match="--opts model: the key '?y'? is given twice"):
            apply_overrides({"model": {}}, [f"model={value}"])
    path.write_text("types:\n- type: X\ntypes:\n- type: X\n")  # as PaddleSeg's configs/upernet has it
    assert read_yaml(str(path)) == {"types": [{"type": "X"}]}
    assert "file.yml, line 3: the key 'types' is given twice, in line 1 first, with the same value" in capsys.readouterr().out


def test_what_an_anchor_shares_is_changed_in_one_place(tmp_path):
    (tmp_path / "file.yml").write_text("a: &a {x: [1, 2], y: 1}\nb:\n  <<: *a\n  y: 2\n")
    data = read_yaml(str(tmp_path / "file.yml"))
    apply_overrides(data, ["b.x.0=5"])
    assert data == {"a": {"x": [1, 2], "y": 1}, "b": {"x": [5, 2], "y": 2}}


@pytest.mark.parametrize("value", ["", "[]", "null"])
def test_no_base(tmp_path, value):
    (tmp_path / "file.yml").write_text(f"_base_: {value}\na: 1\n")
    assert read_yaml(str(tmp_path / "file.yml")) == {"a": 1}


@pytest.mark.parametrize("value", ["5", "{x: y}", "[null]"])
def test_a_base_must_be_files(tmp_path, value):
    (tmp_path / "file.yml").write_text(f"_base_: {value}\n")
    with pytest.raises(UserError, match="file.yml: _base_: expected a file or a list of files, found"):
        read_yaml(str(tmp_path / "file.yml"))


def test_files_that_inherit_in_a_circle_are_refused(tmp_path):
    (tmp_path / "a.yml").write_text("_base_: b.yml\n")
    (tmp_path / "b.yml").write_text("_base_: a.yml\n")
    with pytest.raises(UserError, match="leads back"):
        read_yaml(str(tmp_path / "a.yml"))


def test_missing_base_names_the_file_that_wants_it(tmp_path):
    (tmp_path / "a.yml").write_text("_base_: gone.yml\n")
    with pytest.raises(UserError, match=r"gone.yml \(named in .*a.yml\)"):
        read_yaml(str(tmp_path / "a.yml"))


def test_invalid_yaml_is_refused(tmp_path):
    (tmp_path / "a.yml").write_text("a: [1\n")
    with pytest.raises(UserError, match="no valid YAML"):
        read_yaml(str(tmp_path / "a.yml"))


def test_overrides():
    data = {"a": 1, "b": {"c": [{"d": 1}]}, "e": None}
    apply_overrides(data, ["a=2", "b.c.0.d=x=y", "e=null", "b.f=1e-3", "b.g=[1, 2]"])
    assert data == {"a": 2, "b": {"c": [{"d": "x=y"}], "f": 1e-3, "g": [1, 2]}, "e": None}


@pytest.mark.parametrize(
    "item, message",
    [
        ("a", "KEY=VALUE"),
        ("modell.dropout=1", "did you mean model"),
        ("list.x=1", "give an index"),
        ("list.5=1", "list of 1"),
        ("value.x=1", "single value"),
        ("list.²=1", "give an index"),
        ("value=[1", "--opts value is no valid YAML"),
    ],
)
def test_wrong_overrides_are_refused(item, message):
    with pytest.raises(UserError, match=message):
        apply_overrides({"model": {}, "list": [1], "value": 3}, [item])


@pytest.mark.parametrize("written", [SEED, SEED.replace("/", "\\"), SEED.replace("/", "")])
def test_paths_with_backslashes_are_found(written):
    """The last one is what a shell leaves of an unquoted path with backslashes."""
    assert os.path.samefile(resolve_path(written), SEED)


def test_missing_file_names_the_nearest():
    with pytest.raises(UserError, match=r"did you mean configs/psanet/psanet_resnet50"):
        resolve_path(SEED.replace("80k", "8k"))


def test_unknown_and_missing_keys(write_config):
    with pytest.raises(UserError, match=r"config.yml: batchsize: unknown key; did you mean batch_size"):
        Config(write_config(batchsize=3))
    path = write_config()
    with open(path) as file:
        text = file.read().replace("iters: 4\n", "")
    with open(path, "w") as file:
        file.write(text)
    with pytest.raises(UserError, match="expected one of the keys 'iters' and 'epochs', found none"):
        Config(path)


@pytest.mark.parametrize("key", ["iters", "batch_size", "accumulate"])
@pytest.mark.parametrize("value", [0, -1, "many", 1.5, True, float("inf"), "5", "1:30"])
def test_counts_must_be_whole_and_positive(write_config, key, value):
    with pytest.raises(UserError, match=f"{key}: expected a whole number above 0"):
        Config(write_config(**{key: value}))


@pytest.mark.parametrize("key", ["train_dataset", "optimizer", "lr_scheduler", "loss", "model"])
@pytest.mark.parametrize("value", ["null", "5", "[1]"])
def test_components_must_be_mappings(write_config, key, value):
    with pytest.raises(UserError, match=f"{key}: expected a mapping, found "):
        Config(write_config(), [f"{key}={value}"])


@pytest.mark.parametrize("key", ["val_dataset", "test_config", "plugins", "accumulate", "freeze_batch_norm", "epochs"])
def test_an_empty_key_is_not_there(write_config, key):
    config = Config(write_config(**{key: None}))
    assert config.data.get(key, 1) == 1


@pytest.mark.parametrize(
    "item, message",
    [
        ("val_dataset=5", "val_dataset: expected a mapping, found 5"),
        ("test_config=[1]", r"test_config: expected a mapping, found \[1\]"),
        ("plugins=part.py", "plugins: expected a list, found 'part.py'"),
        ("train_dataset.transforms={type: Normalize}", "train_dataset.transforms: expected a list"),
        ("val_dataset.class_names=[sky, off]", "val_dataset.class_names: expected names, found False, as YAML reads yes, no"),
        ("loss.coef=1", "loss.coef: expected a list, found 1"),
        ("loss.coef=[1, yes]", "loss.coef.1: expected a number, found True"),
        ("loss.coef=[1, .nan]", "loss.coef.1: expected a number, found nan"),
        ("optimizer.weight_decay=-1e-4", "optimizer.weight_decay: expected a number of at least 0, found -0.0001"),
        ("optimizer.weight_decay=.nan", "optimizer.weight_decay: expected a number"),
        ("optimizer.momentum=true", "optimizer.momentum: expected a number of at least 0, found True"),
        (
            "optimizer.grad_clip_cfg={name: ClipGradByNorm, clip_norm: .inf}",
            "optimizer.grad_clip_cfg.clip_norm: expected",
        ),
        ("optimizer.custom_cfg=[{name: head, lr_mult: '2'}]", "custom_cfg.0.lr_mult: .* found '2'; write it without quotes"),
        ("optimizer.custom_cfg=5", "optimizer.custom_cfg: expected a list, found 5"),
        ("lr_scheduler.learning_rate='0.01'", "lr_scheduler.learning_rate: .* found '0.01'; write it without quotes"),
        ("lr_scheduler.learning_rate=-0.01", "lr_scheduler.learning_rate: expected a number of at least 0, found -0.01"),
        ("lr_scheduler.learning_rate=1e999", "lr_scheduler.learning_rate: expected a number of at least 0, found inf"),
        ("lr_scheduler.power=true", "lr_scheduler.power: expected a number of at least 0, found True"),
        ("lr_scheduler.warmup_iters=-1", "lr_scheduler.warmup_iters: expected a whole number of at least 0, found -1"),
    ],
)
def test_values_of_the_wrong_kind(write_config, item, message):
    with pytest.raises(UserError, match=f"config.yml: .*{message}"):
        Config(write_config(), [item])


@pytest.mark.parametrize("rate", [-0.1, float("nan"), float("inf")])
def test_the_flag_of_the_learning_rate(write_config, rate):
    with pytest.raises(UserError, match="--learning_rate: expected a number of at least 0"):
        Config(write_config(), learning_rate=rate)


def test_names_of_classes_that_are_numbers_are_texts(write_config, tiny_data):
    dataset = {"type": "Cityscapes", "dataset_root": str(tiny_data), "transforms": None, "class_names": [7, 1.5, "sky"]}
    config = Config(write_config(train_dataset=dataset))
    assert config.class_names() == ["7", "1.5", "sky"] and config.build_transforms("train_dataset") == []


def test_an_optimizer_needs_a_type(write_config):
    config = Config(write_config(optimizer={"momentum": 0.9}))
    with pytest.raises(UserError, match="optimizer: expected a mapping with the key 'type'"):
        config.build_optimizer(paddle.nn.Linear(1, 1), config.build_scheduler())


def test_configurations_elsewhere_inherit_from_those_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text("_base_: configs/pspnet/pspnet_resnet18_demo.yml\nbatch_size: 7\n")
    config = Config("mine.yml")
    assert (config.batch_size, config.data["model"]["type"]) == (7, "PSPNet")
    (tmp_path / "configs" / "pspnet").mkdir(parents=True)  # one's own comes first
    (tmp_path / "configs" / "pspnet" / "pspnet_resnet18_demo.yml").write_text("iters: 3\n")
    with pytest.raises(UserError, match="the key 'train_dataset' is missing"):
        Config("mine.yml")


def test_flags_replace_values(write_config):
    config = Config(write_config(), iters=7, batch_size=3, learning_rate=0.5)
    assert (config.iters, config.batch_size, config.build_scheduler().get_lr()) == (7, 3, 0.5)


def test_schedule_decays_polynomially_over_the_iterations(write_config):
    schedule = Config(write_config(), iters=10).build_scheduler()
    rates = []
    for _ in range(10):
        rates.append(schedule.get_lr())
        schedule.step()
    expected = [(0.01 - 1e-5) * (1 - step / 10) ** 0.9 + 1e-5 for step in range(10)]
    assert rates == pytest.approx(expected)


def test_warm_up_comes_first(write_config):
    rates = {"type": "PolynomialDecay", "learning_rate": 0.1, "warmup_iters": 4, "warmup_start_lr": 0.0}
    schedule = Config(write_config(lr_scheduler=rates), iters=10).build_scheduler()
    first = []
    for _ in range(5):
        first.append(schedule.get_lr())
        schedule.step()
    assert first == pytest.approx([0, 0.025, 0.05, 0.075, 0.1])


def test_a_schedule_by_epochs(write_config, capsys):
    path = write_config(epochs=7, batch_size=3, iters=None)
    with open(path, encoding="utf-8") as file:
        data = {key: value for key, value in yaml.safe_load(file).items() if key != "iters"}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(data, file)
    config = Config(path)
    resolved = config.resolved(range(20), processes=2)
    assert resolved.iters == 7 * 3 and "epochs" not in str(resolved)  # three whole iterations of six images
    assert "7 epochs of 20 images are 21 iterations" in capsys.readouterr().out
    assert resolved.build_scheduler().decay_steps == 21
    assert "epochs: 7" in str(config) and config.iters == 7 * 2 and config.build_scheduler().decay_steps == 14  # six images
    assert Config(path, iters=5).iters == 5
    with pytest.raises(UserError, match="expected one of the keys 'iters' and 'epochs', found iters and epochs"):
        Config(path, ["iters=5"])


def test_its_methods_change_nothing_in_it(write_config):
    """And may be called in any order, and twice."""
    loss = {"types": [{"type": "CrossEntropyLoss", "weight": "inverse_log"}], "coef": [1, 0.4]}
    config = Config(write_config(loss=loss), [TINY, "model.pretrained=gone.pdparams"])
    before = str(config)
    weights = [loss.class_weight.numpy() for _, loss in config.build_losses()]
    schedule, model = config.build_scheduler(), config.build_model(pretrained=False)
    config.build_optimizer(model, schedule)
    train, val = config.build_dataset("train_dataset"), config.build_dataset("val_dataset")
    config.check_datasets(train, val)
    config.build_transforms()
    config.data["model"]["dropout"] = 0.7
    np.testing.assert_array_equal(config.build_losses(train)[0][1].class_weight.numpy(), weights[0])
    assert np.ptp(weights[0]) > 0 and str(config) == before
    resolved = config.resolved(train)
    assert str(config) == before and resolved.resolved(train).data == resolved.data
    with pytest.raises(UserError, match="model: .*gone.pdparams"):
        config.build_model()


def test_a_leaf_by_epochs_replaces_the_iterations_of_its_base(tmp_path):
    (tmp_path / "base.yml").write_text("iters: 5\na: 1\n")
    (tmp_path / "leaf.yml").write_text("_base_: base.yml\nepochs: 2\n")
    assert read_yaml(str(tmp_path / "leaf.yml")) == {"a": 1, "epochs": 2}


def test_unknown_schedule_names_the_nearest(write_config):
    with pytest.raises(UserError, match="did you mean PolynomialDecay"):
        Config(write_config(lr_scheduler={"type": "PolynomDecay", "learning_rate": 1})).build_scheduler()


def test_sgd_with_momentum_is_momentum(write_config):
    config = Config(write_config())
    model = paddle.nn.Linear(2, 2)
    assert isinstance(config.build_optimizer(model, config.build_scheduler()), paddle.optimizer.Momentum)


def test_model_takes_classes_and_crop_from_the_data_set(write_config):
    model = Config(write_config("PSANet")).build_model()
    assert model.head.conv.weight.shape[0] == 19
    assert model.psa.mask_size == (5, 7)  # crop 48x64, stride 8, shrink 2: a map of 3x4


def test_contradicting_classes_are_refused(write_config):
    config = Config(write_config(), ["model.num_classes=5"])
    with pytest.raises(UserError, match="5, but the training data set has 19"):
        config.build_model()


def test_losses_need_one_weight_each(write_config):
    loss = {"type": "CrossEntropyLoss"}
    weights = [weight for weight, _ in Config(write_config()).build_losses()]
    assert weights == [1, 0.4]
    with pytest.raises(UserError, match="2 types but 3 coef"):
        Config(write_config(loss={"types": [loss, loss], "coef": [1, 1, 1]})).build_losses()
    with pytest.raises(UserError, match="the data set ignores 255"):
        Config(write_config(loss={"types": [{**loss, "ignore_index": 0}], "coef": [1]})).build_losses()


def test_test_config_keys_are_checked(write_config):
    with pytest.raises(UserError, match="did you mean scales"):
        Views.from_options(Config(write_config(test_config={"scale": 1.0})).test_config())


def test_seed_configuration_has_the_values_of_the_reference():
    config = Config(SEED, ["model.backbone.pretrained=null"])
    assert (config.batch_size, config.iters) == (8, 80000)
    assert config.data["optimizer"] == {"type": "SGD", "momentum": 0.9, "weight_decay": 4e-5}
    assert config.data["lr_scheduler"] == {
        "type": "PolynomialDecay",
        "learning_rate": 0.01,
        "end_lr": 1e-5,
        "power": 0.9,
    }
    assert config.data["loss"]["coef"] == [1, 0.4]
    model = config.build_model()
    assert model.psa.mask_size == (59, 59) and model.psa.psa_type == "bi-direction" and model.psa.shrink_factor == 2


@pytest.mark.parametrize("name", ["cityscapes", "pascal_voc12", "pascal_voc12aug", "ade20k"])
def test_configurations_of_the_data_sets(name, tmp_path):
    """But for the data sets themselves, which need their files."""
    bases = [f"{ROOT}/configs/_base_/{name}.yml", f"{ROOT}/configs/_base_/schedule_demo.yml"]
    network = {"type": "PSPNet", "backbone": {"type": "ResNet18_vd"}}
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"_base_": bases, "model": network}))
    config = Config(str(tmp_path / "own.yml"))
    assert Pipeline(config.build_transforms("train_dataset")).takes_bytes
    assert [type(item).__name__ for item in config.build_transforms()][-1] == "Normalize"
    assert len(config.class_names()) == len(config.palette()) == config.build_model().head.conv.weight.shape[0]
