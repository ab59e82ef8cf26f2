"""Snake matches its formula in every precision, with and without gradients."""

import pytest
import torch

from flexicodec.nn.snake import HalfSnake, Snake


def snake_with(alpha: list[float], dtype: torch.dtype = torch.float32) -> Snake:
    snake = Snake(len(alpha))
    snake.alpha.data = torch.tensor(alpha).view(1, -1, 1)
    return snake.to(dtype)


def test_matches_its_formula() -> None:
    x, alpha = 3 * torch.randn(2, 4, 9), [0.3, 1.0, 2.5, -0.7]
    by_hand = x + torch.sin(torch.tensor(alpha).view(1, 4, 1) * x) ** 2 / (torch.tensor(alpha).view(1, 4, 1) + 1e-9)
    torch.testing.assert_close(snake_with(alpha)(x), by_hand)


def test_starts_with_alpha_one() -> None:
    x = torch.randn(1, 3, 5)
    torch.testing.assert_close(Snake(3)(x), x + x.sin() ** 2)


def test_inference_gives_what_training_does_and_leaves_its_input_alone() -> None:
    snake, x = snake_with([0.2, 1.7]), torch.randn(2, 2, 50)
    before = x.clone()
    with torch.no_grad():
        y = snake(x)
    torch.testing.assert_close(y, snake(x))
    assert torch.equal(x, before)


def test_maps_zero_to_zero_and_takes_empty_chunks() -> None:
    snake = snake_with([0.0, 1.5])
    assert torch.equal(snake(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))
    assert snake(torch.zeros(1, 2, 0)).shape == (1, 2, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_formula_also_where_alpha_is_zero(dtype: torch.dtype) -> None:
    x, alpha = torch.randn(1, 3, 20), [0.0, 0.5, 1.0]
    y = snake_with(alpha, dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), snake_with(alpha)(x.to(dtype).float()), atol=3e-2, rtol=1e-2)


def test_gradients_are_those_of_the_formula() -> None:
    snake = snake_with([0.4, -1.2], torch.float64)
    x = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, alpha: torch.func.functional_call(snake, {"alpha": alpha}, x), (x, snake.alpha)
    )


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
def test_half_of_the_channels_are_leaky_and_one_more_if_they_are_odd(channels: int) -> None:
    layer, x = HalfSnake(channels), torch.randn(2, channels, 30)
    layer.snake.alpha.data.uniform_(0.5, 2.0)
    half = channels // 2
    assert layer.snake.alpha.shape == (1, half, 1)
    bent = torch.cat([layer.snake(x[:, :half]), torch.where(x < 0, 0.01 * x, x)[:, half:]], dim=1)
    torch.testing.assert_close(layer(x), bent)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), bent.detach())
    assert not layer(torch.zeros(1, channels, 3)).any()
