"""Gradients, angles, lines and planes, on quadratics where every answer is known."""

import numpy as np
import pytest
import torch

from cl_tutor.landscape import Plane, barrier, cosine, descend, ellipse, gradient, layer_cosines, line, surface
from cl_tutor.vectors import flat, unflat

H = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)


def bowl(params):
    w = torch.cat([params["fc.weight"].flatten(), params["fc.bias"]])
    return 0.5 * w @ H @ w


def point(a, b):
    return {"fc.weight": torch.tensor([[a]], dtype=torch.float64), "fc.bias": torch.tensor([b], dtype=torch.float64)}


def test_gradient_is_the_gradient_and_leaves_grad_alone():
    p = {n: v.requires_grad_() for n, v in point(1.0, -2.0).items()}
    g = gradient(bowl, p)
    torch.testing.assert_close(flat(g), H @ flat(p))
    assert all(v.grad is None for v in p.values())


def test_cosines_of_known_angles():
    assert cosine(point(1, 0), point(0, 2)) == pytest.approx(0, abs=1e-12)
    assert cosine(point(1, 1), point(1, 0)) == pytest.approx(np.cos(np.pi / 4))
    assert cosine(point(1, 1), point(-2, -2)) == pytest.approx(-1)
    assert cosine(point(0, 0), point(1, 0)) == 0
    a = {"l1.weight": torch.ones(3), "l1.bias": torch.ones(1), "l2.weight": torch.ones(2)}
    b = {"l1.weight": -torch.ones(3), "l1.bias": -torch.ones(1), "l2.weight": torch.ones(2)}
    assert layer_cosines(a, b) == pytest.approx({"l1": -1, "l2": 1})


def test_unflat_is_the_inverse_of_flat():
    p = {"a": torch.rand(2, 3), "b": torch.rand(4)}
    again = unflat(flat(p), p)
    assert all(torch.equal(p[n], again[n]) for n in p)


def test_line_and_barrier_on_two_bowls():
    two = lambda p: torch.minimum(bowl(p), bowl({"fc.weight": p["fc.weight"] - 4, "fc.bias": p["fc.bias"]}))
    s, L = line(two, point(0.0, 0.0), point(4.0, 0.0), 101)
    assert L[0] == L[-1] == 0 and barrier(L) == pytest.approx(0.5 * 2 * 2.0**2) and s[L.argmax()] == pytest.approx(0.5)
    _, L = line(bowl, point(-1.0, 0.0), point(1.0, 0.0))
    assert barrier(L) == pytest.approx(0, abs=1e-12), "no barrier within one basin"


def test_plane_holds_its_three_points_and_surface_is_the_loss():
    a, b, c = point(0.0, 0.0), point(2.0, 0.0), point(1.0, 3.0)
    plane = Plane.through(a, b, c)
    assert plane.coordinates(a) == pytest.approx((0, 0)) and plane.coordinates(b) == pytest.approx((2, 0))
    for p in (a, b, c):
        torch.testing.assert_close(flat(plane.at(*plane.coordinates(p))), flat(p))
        assert plane.distance(p) == pytest.approx(0, abs=1e-9)
    Z = surface(bowl, plane.at, [0.0, 1.0, 2.0], [0.0, 1.0])
    assert Z.shape == (2, 3) and Z[1, 2] == pytest.approx(float(bowl(plane.at(2.0, 1.0))))


def test_a_point_off_the_plane_says_how_far():
    e = torch.eye(3, dtype=torch.float64)
    plane = Plane.through({"w": e[0]}, {"w": e[1]}, {"w": -e[0]})
    assert plane.distance({"w": torch.tensor([0.0, 0.0, -5.0], dtype=torch.float64)}) == pytest.approx(5)


def test_three_points_on_one_line_are_refused():
    with pytest.raises(ValueError, match="lie on one line"):
        Plane.through(point(0.0, 0.0), point(1.0, 1.0), point(2.0, 2.0))


def test_descend_arrives_at_the_optimum_and_keeps_its_way():
    A, at = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([1.0, -3.0]).double()
    loss = lambda theta: (theta - at) @ A @ (theta - at) + (theta - at).pow(4).sum()
    path = descend(loss, torch.zeros(2).double(), tol=1e-8)
    heights = [loss(theta).item() for theta in path]
    assert torch.equal(path[0], torch.zeros(2).double()) and (path[-1] - at).abs().max() < 1e-6
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == len(heights) > 3, "each step is its own"
    with pytest.raises(ValueError, match="No optimum in 2 steps"):
        descend(loss, torch.zeros(2).double(), steps=2)


def test_ellipse_is_where_the_bowl_has_the_height():
    A, center = torch.tensor([[2.0, -0.9], [-0.9, 0.5]]).double(), torch.tensor([1.0, -3.0]).double()
    delta = ellipse(center, A, c=0.7) - center
    assert torch.allclose((delta @ A * delta).sum(1) / 2, torch.full((81,), 0.7).double())
    assert torch.allclose(delta[0], delta[-1]) and len(delta.round(decimals=6).unique(dim=0)) == 80
    assert torch.allclose(delta[:-1].mean(0), torch.zeros(2).double(), atol=1e-12), "it goes all the way round"
