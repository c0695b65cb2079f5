"""Recipes: what they are made of, and that a wish takes the place of what they have."""

from __future__ import annotations

import pytest

from supernet.retraining import Settings
from supernet.training import recipes
from supernet.training.recipes import Wishes
from tests.conftest import refused


def test_the_papers_recipe_is_that_of_spos_and_pad_nas():
    fit = Settings(240, 1024).fit
    assert (fit.optimizer, fit.schedule, fit.momentum, fit.lr) == ("sgd", "linear", 0.9, 0.5)
    assert (fit.weight_decay, fit.label_smoothing, fit.warmup_epochs) == (4e-5, 0.1, 0)
    assert (fit.mixup, fit.cutmix, fit.auto_augment, fit.ema, fit.drop_path) == (0, 0, "none", 0, 0)


@pytest.mark.parametrize(("epochs", "crops", "strong"), [(3, False, False), (30, True, False), (100, True, True)])
def test_short_trainings_are_not_regularised(epochs, crops, strong):
    fit = Settings(epochs, recipe="modern").fit
    assert fit.ema > 0
    assert fit.schedule == "cosine"
    assert fit.warmup_epochs <= epochs / 5
    assert fit.augment == crops
    for value in (fit.mixup, fit.cutmix, fit.drop_path, fit.auto_augment != "none"):
        assert bool(value) == strong


def test_wishes_come_before_the_recipe():
    fit = Settings(100, recipe="modern", schedule="linear", mixup=0.0, optimizer="lamb", lr=0.3).fit
    assert (fit.schedule, fit.mixup, fit.cutmix, fit.optimizer, fit.lr) == ("linear", 0, 1.0, "lamb", 0.3)
    assert fit.weight_decay == recipes.DECAY["lamb"]
    assert Settings(3, auto_augment="trivial").fit.augment
    assert "without augmentation" in refused(Settings, 3, auto_augment="trivial", augment=False)
    assert Settings(20, train_resolution=20).fit.finetune_epochs == 6


def test_what_is_recorded_is_the_recipe_in_full():
    recorded = Settings(30, recipe="modern", cutmix=0.5).recorded
    assert recorded["recipe"] == "modern"
    assert recorded["cutmix"] == 0.5
    assert all(recorded[name] is not None for name in Wishes().settled(30))
    assert recorded == Settings(30, recipe="modern", cutmix=0.5, ema=recorded["ema"]).recorded


def test_unknown_names_are_refused():
    assert "expected paper, modern" in refused(Settings, 3, recipe="classic")
    assert "expected sgd, adamw, lamb" in refused(Settings, 3, optimizer="rmsprop")
