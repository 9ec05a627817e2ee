"""Bundles of strangers: what deploy.yaml may say, which files it may name, and what graphs may do."""

import copy
import json
import os
import shutil
import struct

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper

from paddleseg_psp.bundle import export_bundle, load_predictor
from paddleseg_psp.bundle.description import read_description, require_own_values
from paddleseg_psp.errors import UserError
from paddleseg_psp.models import PSPNet
from tests.helpers import TinyBackbone, run_python

INPUT = np.zeros((1, 3, 64, 96), np.float32)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "bundle"
    model = PSPNet(6, TinyBackbone(), pp_out_channels=16)
    names = [f"class {index}" for index in range(6)]
    export_bundle(
        model, str(folder), [{"type": "Normalize"}], class_names=names, palette=[(1, 2, 3)] * 6, onnx=True, verify=False
    )
    return folder


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy of a whole bundle, without checksums, as somebody would make it who changes its files."""
    folder = tmp_path / "bundle"
    shutil.copytree(exported, folder)
    change(folder, sha256=None)
    return folder


def change(folder, **values):
    path = folder / "deploy.yaml"
    content = yaml.safe_load(path.read_text())
    content["Deploy"].update(values)
    path.write_text(yaml.safe_dump(content))


def test_a_whole_bundle_runs(bundle):
    """So that the hostile ones fail for what is hostile in them."""
    for backend in ("paddle", "onnxruntime"):
        assert load_predictor(str(bundle), backend).run(INPUT).shape == (1, 64, 96)


WRONG = {
    "model": [5, ["model.json"], "a\0b", "x" * 2000], "params": [{}, True], "onnx": [["model.onnx"]],
    "transforms": ["Normalize", {}, ["Normalize"], [[]], [{}] * 200], "input_shape": ["any", [1, 3], [1, 3, "a", 5],
    [0, 3, -1, -1], [-2, 3, -1, -1], [10**9, 3, -1, -1], [True, 3, -1, -1]], "output_op": ["argmaxx", 5, ["argmax"]],
    "ignore_index": ["255", 1.5, 10**20], "max_value": [0, -1, "white", float("nan")], "mask_size": [[1], ["a", "b"], 5],
    "class_names": ["sky", [5], [["sky"]], {"a": 1}, ["x" * 2000]], "palette": [[[1, 2]], [[1, 2, 256]], [["a", 1, 2]], 5],
    "test_config": [[], "whole", 5], "sha256": [[], "x", {"model.json": 5}], "multiply_adds_per_pixel": ["many", -1, 1.5],
    "output_dtype": [5], "paddle_version": [3.3],
}  # fmt: skip


@pytest.mark.parametrize("key, value", [(key, value) for key, values in WRONG.items() for value in values])
def test_values_of_another_kind(bundle, key, value):
    change(bundle, **{key: value})
    with pytest.raises(UserError, match=f"deploy.yaml: {key}: expected ") as refusal:
        load_predictor(str(bundle))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    "options",
    [
        {"is_slide": True, "crop_size": [10**9, 10**9], "stride": [10**9, 10**9]},
        {"aug_eval": True, "scales": [1e9]},
        {"aug_eval": True, "scales": [1.0] * 10**4},
        {"aug_eval": True, "scales": {"type": "VisionTransformer"}},
        {"is_slide": "yes"},
        {5: 6},
    ],
)
def test_views_that_no_bundle_has(bundle, options):
    change(bundle, test_config=options)
    with pytest.raises(UserError, match="deploy.yaml: test_config"):
        load_predictor(str(bundle))


def test_required_keys(bundle):
    for key in ("model", "params", "transforms", "input_shape", "output_op"):
        before = (bundle / "deploy.yaml").read_text()
        content = yaml.safe_load(before)
        del content["Deploy"][key]
        (bundle / "deploy.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError, match=f"it lacks {key}"):
            read_description(str(bundle / "deploy.yaml"))
        (bundle / "deploy.yaml").write_text(before)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
BOMB += "".join(f"a{depth}: &a{depth} [{', '.join([f'*a{depth - 1}'] * 9)}]\n" for depth in range(1, 40))
MERGED = "a0: &a0 {k: v}\n"
MERGED += "".join(f"a{depth}: &a{depth} {{<<: [{', '.join([f'*a{depth - 1}'] * 9)}]}}\n" for depth in range(1, 40))


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "is no deploy.yaml of export.py"),
        ("Deploy: 5", "is no deploy.yaml of export.py"),
        ("Deploy: [model]", "it lacks"),
        ("[" * 100000, "is no deploy.yaml of export.py: RecursionError"),
        (BOMB + "Deploy: *a39", r"its aliases \(\*\) mean more than a description says"),
        ("Deploy: &a [*a]", "its aliases"),
        ("Deploy: {? &a [*a] : 5}", "its aliases"),
        ("Deploy: {max_value: 0x" + "f" * 10**5 + "}", "a number of more than 100 digits"),
        ("Deploy: {max_value: 1" + ":1" * 10**4 + "}", "a number of more than 100 digits"),
        ("Deploy: {max_value: " + "9" * 10**5 + ".5}", "a number of more than 100 digits"),
        (MERGED + "Deploy: *a39", "its aliases"),
        ("Deploy: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("# " + "x" * 2**17, "expected a file of at most 131072 bytes"),
        ("Deploy: {max_value: !!int }", "IndexError"),  # of PyYAML
        ("Deploy: {model: \x00}", "is no deploy.yaml of export.py"),
    ],
)
def test_texts_that_are_no_description(tmp_path, text, words):
    (tmp_path / "deploy.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_description(str(tmp_path / "deploy.yaml"))


@pytest.mark.parametrize("key", ["output_op", "transforms", "test_config", "class_names", "sha256", "unknown"])
def test_aliases_that_mean_more_than_memory_holds(bundle, key):
    """A few lines that mean 9 ** 40 values: nothing walks through them or writes them out."""
    description = yaml.safe_load((bundle / "deploy.yaml").read_text())
    description["Deploy"][key] = "BOMB"
    text = yaml.safe_dump(description)
    (bundle / "deploy.yaml").write_text(BOMB + text.replace("BOMB", "*a39"))
    with pytest.raises(UserError, match="its aliases .* mean more than a description says"):
        read_description(str(bundle / "deploy.yaml"))


def test_aliases_as_yaml_writers_make_them(bundle):
    color, size = [1, 2, 3], [64, 96]
    change(bundle, palette=[color] * 6, mask_size=size, transforms=[{"type": "Resize", "target_size": size}])
    assert "*id001" in (bundle / "deploy.yaml").read_text()
    assert read_description(str(bundle / "deploy.yaml"))["palette"] == [color] * 6


OUTSIDE = ["../outside", "{folder}/outside", "sub/../../outside", "link", "sub/link"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("key, backend", [("model", "paddle"), ("params", "paddle"), ("onnx", "onnxruntime")])
def test_files_outside_of_the_bundle(bundle, name, key, backend):
    """By their names and through links, whatever is there."""
    own = bundle / yaml.safe_load((bundle / "deploy.yaml").read_text())["Deploy"][key]
    shutil.move(str(own), str(bundle.parent / "outside"))
    (bundle / "sub").mkdir()
    for link in (bundle / "link", bundle / "sub" / "link"):
        link.symlink_to(bundle.parent / "outside")
    change(bundle, **{key: name.format(folder=bundle.parent)})
    with pytest.raises(UserError, match=f"deploy.yaml: {key}: .*is not in the bundle's folder"):
        load_predictor(str(bundle), backend)


def test_folders_in_a_bundle_and_links_to_one(bundle):
    (bundle / "sub").mkdir()
    shutil.move(str(bundle / "model.onnx"), str(bundle / "sub" / "model.onnx"))
    change(bundle, onnx="sub/model.onnx")
    (bundle.parent / "other name").symlink_to(bundle)
    assert load_predictor(str(bundle.parent / "other name"), "onnxruntime").run(INPUT).shape == (1, 64, 96)


def test_what_is_no_regular_file(bundle):
    os.remove(bundle / "model.onnx")
    with pytest.raises(UserError, match="model.onnx is missing"):
        load_predictor(str(bundle), "onnxruntime")
    os.mkfifo(bundle / "model.onnx")  # which would be waited for
    with pytest.raises(UserError, match="model.onnx is no regular file"):
        load_predictor(str(bundle), "onnxruntime")
    os.remove(bundle / "deploy.yaml")
    os.mkfifo(bundle / "deploy.yaml")
    with pytest.raises(UserError, match="is no deploy.yaml of export.py"):
        load_predictor(str(bundle))


def graph_operations(graph):
    return graph["program"]["regions"][0]["blocks"][0]["ops"]


def reading_file(graph, name):
    """Changes a graph so that its first output is a file of the machine it runs on."""
    kind = {"#": "0.t_dtensor", "D": [{"#": "0.t_ui8"}, [-1], "NCHW", [], 0]}
    attributes = [
        {"N": "filename", "AT": {"#": "0.a_str", "D": name}},
        {"N": "dtype", "AT": {"#": "1.a_dtype", "D": "uint8"}},
        {"N": "place", "AT": {"#": "1.a_place", "D": [1, 0, ""]}},
    ]
    stop = {"AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": True}]}, "N": "stop_gradient"}
    operation = {"#": "1.read_file", "A": attributes, "I": [], "O": [{"%": 9999, "TT": kind}], "OA": [stop]}
    operations = graph_operations(graph)
    first = next(place for place, item in enumerate(operations) if item["#"] == "1.fetch")
    operations[first]["I"], operations[first]["O"][0]["TT"] = [{"%": 9999}], kind
    operations.insert(first, operation)


RUN = """
import sys, numpy as np
from paddle import inference
config = inference.Config(sys.argv[1] + "/model.json", sys.argv[1] + "/model.pdiparams")
config.disable_gpu(), config.disable_mkldnn()
predictor = inference.create_predictor(config)
handle = predictor.get_input_handle(predictor.get_input_names()[0])
handle.reshape([1, 3, 64, 96])
handle.copy_from_cpu(np.zeros((1, 3, 64, 96), np.float32))
predictor.run()
print("OUTPUT", predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu().tobytes())
"""


def test_graphs_that_read_files(bundle, tmp_path):
    """Paddle Inference runs such a graph; here it is not given it."""
    (tmp_path / "secret").write_text("the secret")
    graph = json.loads((bundle / "model.json").read_text())
    reading_file(graph, str(tmp_path / "secret"))
    (bundle / "model.json").write_text(json.dumps(graph))
    assert "OUTPUT b'the secret'" in run_python(["-c", RUN, bundle]).stdout
    with pytest.raises(UserError, match="model.json has the operators read_file, which no network needs: do not trust it"):
        load_predictor(str(bundle))


def test_parameters_that_claim_other_sizes(bundle):
    """Paddle Inference takes memory for what a file claims, until the machine has none."""
    content = (bundle / "model.pdiparams").read_bytes()
    start = struct.pack("<IQIi", 0, 0, 0, 4) + bytes([8, 5, 16])  # a tensor of float32, and its first dimension
    assert content.startswith(start)
    length = content[len(start)]
    wrong = {
        "a large dimension": start[:16]
        + struct.pack("<i", 8)
        + start[20:]
        + b"\xff\xff\xff\xff\x0f"
        + content[len(start) + 1 :],
        "a negative one": start[:16] + struct.pack("<i", 13) + start[20:] + b"\xff" * 9 + b"\1" + content[len(start) + 1 :],
        "one less": start + bytes([length - 1]) + content[len(start) + 1 :],
        "another type": content.replace(bytes([8, 5]), bytes([8, 7]), 1),
        "levels": content[:4] + b"\1" + content[5:],
        "a long description": content[:16] + b"\xff\xff\xff\x7f" + content[20:],
        "a negative description": content[:16] + b"\xff\xff\xff\xff" + content[20:],
        "truncated": content[:-1],
        "more": content + b"\0",
    }
    for values in wrong.values():
        (bundle / "model.pdiparams").write_bytes(values)
        with pytest.raises(UserError, match="model.pdiparams has no whole parameters"):
            load_predictor(str(bundle))


@pytest.mark.parametrize("name", ["1.save_combine", "pd_op.load_combine", "1.py_func", "1.pylayer", "1.print", "1.send_v2"])
def test_operators_that_reach_beyond_the_network(bundle, name):
    graph = json.loads((bundle / "model.json").read_text())
    inner = copy.deepcopy(graph["program"]["regions"])  # of a branch, for example
    graph_operations({"program": {"regions": inner}})[:] = [{"#": name, "A": [], "I": [], "O": [], "OA": []}]
    graph_operations(graph).append({"#": "1.if", "A": [], "I": [], "O": [], "OA": [], "regions": inner})
    (bundle / "model.json").write_text(json.dumps(graph))
    with pytest.raises(UserError, match=f"has the operators {name.split('.')[1]}, which no network needs"):
        load_predictor(str(bundle))


def test_operators_that_a_second_entry_hides(bundle):
    text = (bundle / "model.json").read_text()
    (bundle / "model.json").write_text(text.replace('"#":"1.fetch"', '"#":"1.read_file","#":"1.fetch"', 1))
    assert "read_file" in (bundle / "model.json").read_text()
    with pytest.raises(UserError, match="has the operators read_file"):
        load_predictor(str(bundle))


@pytest.mark.parametrize("content", [b"", b"[" * 10**6, b"{}x", b"\xff"])
def test_what_is_no_graph(bundle, content):
    (bundle / "model.json").write_bytes(content)
    with pytest.raises(UserError, match="model.json"):
        load_predictor(str(bundle))


def outside_tensor(name="w"):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    return tensor


def onnx_model(place):
    """Returns a network that takes values of another file in one of the places where ONNX has tensors."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    nodes, initializers, functions = [helper.make_node("Add", ["x", "w"], ["y"])], [], []
    if place == "initializer":
        initializers = [outside_tensor()]
    elif place == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=outside_tensor("")))
    else:
        inner = helper.make_graph([helper.make_node("Identity", ["v"], ["u"])], "inner", [], [y], [outside_tensor("v")])
        if place == "branch":
            condition = helper.make_tensor("c", TensorProto.BOOL, [], [True])
            initializers = [condition]
            nodes.insert(0, helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner))
        else:
            body = [helper.make_node("Constant", [], ["u"], value=outside_tensor(""))]
            functions = [helper.make_function("own", "F", [], ["u"], body, [helper.make_opsetid("", 13)])]
            nodes.insert(0, helper.make_node("F", [], ["w"], domain="own"))
    graph = helper.make_graph(nodes, "graph", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "function"])
def test_onnx_files_with_values_elsewhere(bundle, place):
    (bundle.parent / "secret").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (bundle / "model.onnx").write_bytes(onnx_model(place).SerializeToString())
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(UserError, match=r"model.onnx keeps values of '?.*'? in another file: do not trust it"):
            load_predictor(str(bundle), backend)


def test_names_with_location_are_no_values_elsewhere(exported, tmp_path):
    model = onnx.load(str(exported / "model.onnx"))
    model.graph.doc_string = "dislocation"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    require_own_values(str(tmp_path / "a.onnx"))
    (tmp_path / "a.onnx").write_bytes(b"location" + os.urandom(100))
    with pytest.raises(UserError, match="is no ONNX file"):
        require_own_values(str(tmp_path / "a.onnx"))


def test_bundles_of_paddleseg(bundle):
    """Have fewer keys."""
    content = yaml.safe_load((bundle / "deploy.yaml").read_text())["Deploy"]
    kept = {key: content[key] for key in ("model", "params", "transforms", "input_shape", "output_op", "output_dtype")}
    (bundle / "deploy.yaml").write_text(yaml.safe_dump({"Deploy": kept}))
    assert load_predictor(str(bundle)).run(INPUT).shape == (1, 64, 96)
