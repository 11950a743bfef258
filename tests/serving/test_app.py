"""The service's routes, without Ray: what they answer, refuse and say of themselves."""

import asyncio
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from starlette.testclient import TestClient as AnyClient

from llb_ray.engine.inference.regions import ANY
from llb_ray.engine.inference.trained_detector import TrainedDetector
from llb_ray.errors import ConfigError
from llb_ray.names import shown
from llb_ray.serving.access import digest_of, refuse_open
from llb_ray.serving.answer import Judged, Refused, run_version
from llb_ray.serving.app import Ask, build_app
from llb_ray.serving.busy import Busy
from llb_ray.serving.judge import Judge

_TOKEN = "correct horse battery staple"
_MIB = 2**20


def _ask(judge: Judge) -> Ask:
    async def ask(content: bytes, draws: bool) -> Judged | Refused:
        pixels = await asyncio.to_thread(judge.read, content)
        return pixels if isinstance(pixels, Refused) else judge.verdict(content, judge.judge([pixels])[0], draws)

    return ask


async def _busy(content: bytes, draws: bool) -> Judged | Refused:
    raise Busy


def _client(asks: dict[str, Ask], token: str | None = None) -> TestClient:
    return TestClient(build_app(asks, _MIB, digest_of(token)), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def judge(finished: Path, one_thread: None) -> Judge:
    return Judge(str(finished))


@pytest.fixture
def client(judge: Judge) -> Iterator[AnyClient]:
    with _client({"weave": _ask(judge), "crowded": _busy}) as client:
        yield client


@pytest.fixture
def images(photos: Path) -> list[Path]:
    return sorted((photos / "test").rglob("*.png"))[:3]


def test_verdicts_are_those_of_predict(client: AnyClient, finished: Path, images: list[Path]) -> None:
    files = [("images", (f"{number}.png", path.read_bytes())) for number, path in enumerate(images)]
    answer = client.post("/runs/weave/predict", files=files).json()
    expected = TrainedDetector.load(finished).predict(images)
    assert answer["run"] == "weave"
    assert answer["version"] == run_version(str(finished))
    assert answer["threshold"] == expected.calibrations[0].threshold
    assert [image["name"] for image in answer["images"]] == ["0.png", "1.png", "2.png"]
    assert [image["decision"] for image in answer["images"]] == expected.decisions
    assert [image["score"] for image in answer["images"]] == pytest.approx(expected.score_N.tolist(), rel=1e-4)
    assert [image["overlay"] for image in answer["images"]] == [None] * 3
    assert [len(image["regions"]) for image in answer["images"]] == list(map(len, expected.regions))


def test_regions_are_those_of_predict(finished: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge(str(finished))
    detector, finder = judge._detector, judge._detector.calibration.regions
    assert finder is not None
    level = float(np.quantile(finder.smooth(detector.predict(images[0]).map_NHW[0]), 0.9))
    calibration = replace(detector.calibration, regions=replace(finder, level=level))
    monkeypatch.setattr(detector, "run", replace(detector.run, calibrations={ANY: calibration}))
    (expected,) = detector.predict(images[0]).regions
    with _client({"weave": _ask(judge)}) as client:
        (image,) = client.post("/runs/weave/predict", content=images[0].read_bytes()).json()["images"]
    assert len(image["regions"]) == len(expected) > 0
    for said, region in zip(image["regions"], expected, strict=True):
        assert [said[name] for name in ("x", "y", "width", "height")] == [
            *(region.x, region.y, region.width, region.height)
        ]
        assert said["peak"] == pytest.approx(region.peak, rel=1e-3)


def test_a_run_without_held_out_maps_answers_without_regions(
    finished: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(str(finished))
    detector = judge._detector
    calibration = replace(detector.calibration, regions=None)
    monkeypatch.setattr(detector, "run", replace(detector.run, calibrations={ANY: calibration}))
    with _client({"weave": _ask(judge)}) as client:
        (image,) = client.post("/runs/weave/predict?overlay=true", content=images[0].read_bytes()).json()["images"]
    assert image["regions"] is None
    assert image["overlay"]


def test_a_bare_body_is_one_image_and_its_heatmap_a_picture(client: AnyClient, images: list[Path]) -> None:
    content = images[0].read_bytes()
    (image,) = client.post("/runs/weave/predict?overlay=true", content=content).json()["images"]
    assert image["overlay"].startswith("data:image/png;base64,")
    answer = client.post("/runs/weave/overlay", content=content)
    with Image.open(io.BytesIO(answer.content)) as picture, Image.open(images[0]) as photograph:
        assert picture.format == "PNG"
        assert picture.size == photograph.size
    assert answer.headers["x-decision"] == image["decision"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image at all", "image 1: not an image of a known format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "image 1: "),
        (b"%PDF-1.7", "but PDF"),
        (b"", "no image in the request"),
    ],
    ids=["text", "damaged", "pdf", "nothing"],
)
def test_what_is_no_image_is_one_sentence(client: AnyClient, content: bytes, reason: str) -> None:
    answer = client.post("/runs/weave/predict", content=content)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    with io.BytesIO() as file:
        image.save(file, kind, **options)
        return file.getvalue()


_NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "content",
    [
        _encoded(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"),
        _encoded(_NOISE.quantize(16), "PNG", transparency=3),
        _encoded(_NOISE.convert("CMYK"), "JPEG"),
        _encoded(_NOISE.convert("1"), "PNG"),
        _encoded(_NOISE.convert("LA"), "PNG"),
        _encoded(_NOISE, "TIFF"),
        _encoded(_NOISE.resize((3, 700)), "BMP"),
    ],
    ids=["16 bits", "palette", "CMYK", "1 bit", "grey and alpha", "TIFF", "3 x 700"],
)
def test_photographs_of_every_kind_are_judged(client: AnyClient, content: bytes) -> None:
    answer = client.post("/runs/weave/predict?overlay=true", files=[("images", ("a.png", content))])
    assert answer.status_code == 200, answer.text
    assert answer.json()["images"][0]["decision"] in ("normal", "anomalous")


_TYPE = "multipart/form-data"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (_encoded(_NOISE, "JPEG")[:-600], None),
        (_encoded(_NOISE, "PNG")[:3000], None),
        (_encoded(Image.new("1", (30_000, 30_000)), "PNG"), None),  # 900 million pixels in a few kB
        (_encoded(_NOISE, "GIF", save_all=True, append_images=[_NOISE.rotate(90)]), None),
        (b'{"image": "x"}', "application/json"),
        (b"nothing", _TYPE),
        (b"nothing", f"{_TYPE}; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\ntext\r\n--x--\r\n', f"{_TYPE}; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="b.png"\r\n\r\n\r\n--x--\r\n',
            f"{_TYPE}; boundary=x",
        ),
    ],
    ids=["half a JPEG", "half a PNG", "bomb", "film", "JSON", "no boundary", "no part", "no file", "empty file"],
)
def test_a_body_that_makes_no_sense_is_refused_in_one_sentence(
    client: AnyClient, content: bytes, kind: str | None
) -> None:
    answer = client.post("/runs/weave/predict", content=content, headers={} if kind is None else {"Content-Type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert 5 < len(answer.json()["detail"].split("\n")[0]) < 300
    assert "\n" not in answer.json()["detail"]


def _part(name: bytes, content: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="a"; filename="' + name + b'"\r\n\r\n' + content + b"\r\n"


@pytest.mark.parametrize("cut", [1, 3, 6, 20, 400])
def test_a_form_that_is_cut_short_is_refused_and_not_judged_in_part(
    client: AnyClient, images: list[Path], cut: int
) -> None:
    form = b"".join(_part(b"a.png", path.read_bytes()) for path in images[:2]) + b"--x--"
    answer = client.post("/runs/weave/predict", content=form[:-cut], headers={"Content-Type": f"{_TYPE}; boundary=x"})
    assert (answer.status_code, answer.json()["detail"]) == (
        400,
        "the form ends before its last boundary; send all of it",
    )


@pytest.mark.parametrize(
    "kind", [f"{_TYPE}; boundary=x", "Multipart/Form-Data; boundary=x", f'{_TYPE};BOUNDARY="x"; charset=bogus']
)
@pytest.mark.parametrize(
    "name", [b"a\xff.png", b"../../a.png", b"\x1b[2J.png", b"a%0d%0aX-Evil: 1.png", b"\xe2\x80\xae.png", b""]
)
def test_a_form_is_one_however_it_is_spelt_and_its_files_whatever_their_names(
    client: AnyClient, images: list[Path], kind: str, name: bytes
) -> None:
    form = _part(name, images[0].read_bytes()) + _part(name, b"nothing") + b"--x--"
    answer = client.post("/runs/weave/predict", content=form, headers={"Content-Type": kind})
    assert answer.status_code == 422
    assert ": not an image of a known format" in answer.json()["detail"]
    assert shown(answer.json()["detail"]) == answer.json()["detail"]


def test_a_name_that_no_encoding_has_is_written_with_question_marks(client: AnyClient, images: list[Path]) -> None:
    form = _part(b"+2AA-.png", images[0].read_bytes()) + b"--x--"  # half of a character
    headers = {"Content-Type": f"{_TYPE}; boundary=x; charset=utf-7"}
    answer = client.post("/runs/weave/predict", content=form, headers=headers)
    assert answer.json()["images"][0]["name"] == "?.png"


@pytest.mark.parametrize(
    ("address", "content", "kind", "status", "reason"),
    [
        ("/runs/weave/predict?overlay=perhaps", b"x", "", 422, "overlay: "),
        ("/runs/weave/predict", b"--" + b"y" * 5000, f"{_TYPE}; boundary={'y' * 5000}", 400, "not a form: "),
        ("/runs/weave/predict", b"--x\r\nX: 1\r\n\r\nx\r\n--x--", f"{_TYPE}; boundary=x", 400, "not a form: "),
        (f"/runs/{'w' * 5000}/predict", b"x", "", 404, "no run 'www"),
        ("/runs/%1b%5b2J%0d%0a/predict", b"x", "", 404, r"no run '\x1b[2J\r\n' is served"),
        ("/runs/%ed%a0%80%ff/predict", b"x", "", 404, "no run '"),
    ],
    ids=["parameter", "long boundary", "no name", "long run", "escapes", "no UTF-8"],
)
def test_refusals_are_one_short_sentence_whatever_was_sent(
    client: AnyClient, address: str, content: bytes, kind: str, status: int, reason: str
) -> None:
    answer = client.post(address, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["detail"].startswith(reason)
    assert len(answer.json()["detail"]) < 300
    assert "\n" not in answer.json()["detail"]


def test_too_many_files_are_refused(client: AnyClient) -> None:
    answer = client.post("/runs/weave/predict", files=[("images", (f"{at}.png", b"x")) for at in range(65)])
    assert answer.status_code == 400
    assert "64" in answer.json()["detail"]


def test_a_bad_image_among_good_ones_is_named_without_what_its_name_might_do(
    client: AnyClient, images: list[Path]
) -> None:
    files = [("images", ("good.png", images[0].read_bytes())), ("images", ("<b>\x1b[2J.png", b"nothing"))]
    answer = client.post("/runs/weave/predict", files=files)
    assert answer.status_code == 422
    assert ".png: not an image" in answer.json()["detail"]
    assert "\x1b" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "content", "status", "reason"),
    [
        ("/runs/other/predict", b"x", 404, "no run 'other' is served"),
        ("/runs/weave/predict", bytes(_MIB + 1), 413, "larger than 1 MiB"),
        ("/runs/crowded/predict", b"x", 503, "send it again later"),
    ],
)
def test_refusals_are_one_sentence(client: AnyClient, path: str, content: bytes, status: int, reason: str) -> None:
    answer = client.post(path, content=content)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


@pytest.mark.parametrize("declared", [str(_MIB + 1), "9" * 18, "9" * 5000])
def test_a_body_that_is_declared_as_too_large_is_not_waited_for(client: AnyClient, declared: str) -> None:
    answer = client.post("/runs/weave/predict", content=b"x", headers={"Content-Length": declared})
    assert answer.status_code == 413


def test_a_form_that_is_too_large_is_refused(client: AnyClient) -> None:
    assert client.post("/runs/weave/predict", files={"images": bytes(2 * _MIB)}).status_code == 413


def test_prometheus_sees_what_was_asked(client: AnyClient, images: list[Path]) -> None:
    client.post("/runs/weave/predict", content=images[0].read_bytes())
    client.post("/runs/weave/predict", content=b"nothing")
    text = client.get("/metrics").text
    assert 'llb_serve_requests_total{run="weave",status="200"} 1.0' in text
    assert 'llb_serve_requests_total{run="weave",status="422"} 1.0' in text
    assert 'llb_serve_request_seconds_count{run="weave"} 2.0' in text
    assert 'llb_serve_images_total{decision="' in text


def test_the_api_describes_itself_without_another_host(client: AnyClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/runs", "/runs/{run}/predict", "/runs/{run}/overlay", "/metrics", "/healthz"} <= set(paths)
    assert "multipart/form-data" in paths["/runs/{run}/predict"]["post"]["requestBody"]["content"]
    for page in ("/docs", "/"):
        text = client.get(page).text
        assert "<html" in text
        assert "https://" not in text
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_without_a_token_only_this_machines_names_are_served(judge: Judge) -> None:
    with _client({"weave": _ask(judge)}) as client:
        assert client.get("/runs").json() == {"runs": ["weave"]}
        assert client.get("/runs", headers={"Host": "photos.example"}).status_code == 400


@pytest.mark.parametrize("host", ["photos.example", "localhost.photos.example", "localhost:1@photos.example", ""])
def test_a_name_that_was_made_to_lead_here_is_not_served(client: AnyClient, host: str) -> None:
    for path in ("/runs", "/healthz", "/metrics", "/"):
        assert client.get(path, headers={"Host": host, "X-Forwarded-Host": "localhost"}).status_code == 400


@pytest.mark.parametrize("origin", ["https://photos.example", "null", "http://127.0.0.1:9000", "http://127.0.0.1"])
def test_without_a_token_no_page_of_another_site_is_served(client: AnyClient, images: list[Path], origin: str) -> None:
    for headers in ({"Origin": origin}, {"Origin": origin, "Content-Type": "text/plain"}):
        answer = client.post("/runs/weave/predict", content=images[0].read_bytes(), headers=headers)
        assert (answer.status_code, answer.json()["detail"]) == (403, "this page is of another site")
    own = {"Origin": "http://127.0.0.1:8000"}
    assert client.post("/runs/weave/predict", content=images[0].read_bytes(), headers=own).status_code == 200


@pytest.mark.parametrize("path", ["/runs", "/metrics"])
def test_a_token_is_asked_for(judge: Judge, path: str) -> None:
    with _client({"weave": _ask(judge)}, _TOKEN) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {_TOKEN}"}):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 401
            assert "a token is needed" in answer.json()["detail"]
        assert client.get(path, headers={"Authorization": f"Bearer {_TOKEN}"}).status_code == 200
        assert client.get("/healthz").status_code == 200
        assert client.post("/runs/weave/predict", content=b"x").status_code == 401


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "photos.example", "127.0.0.1.example"])
def test_other_machines_are_served_only_with_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="set LLB_SERVE_TOKEN"):
        refuse_open(host, None)
    refuse_open(host, _TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    refuse_open(host, None)


@pytest.mark.parametrize("odd", ["\u00e9", "\n", " ", "\0", "\udcff"])
@pytest.mark.parametrize("token", ["{}" + "a" * 16, "a" * 16 + "{}"])
def test_a_token_that_no_client_could_send_is_refused(token: str, odd: str) -> None:
    with pytest.raises(ConfigError, match="characters that a header cannot carry, or a space at an end"):
        digest_of(token.format(odd))


def test_a_token_that_could_be_guessed_is_refused() -> None:
    with pytest.raises(ConfigError, match="shorter than 16 characters"):
        digest_of("secret")
