"""Runs of Lightning, for ``run_framework``; each rank writes its results."""

import json
import pathlib

import lightning.pytorch as pl
import torch

from support.framework_cases import make, numbers


class Model(pl.LightningModule):
    """Notes its batches."""

    def __init__(self, loader, file):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen = {"fit": [], "validate": [], "predict": []}
        self.loader, self.file = loader, file

    def training_step(self, batch, index):
        self.seen["fit"].append([self.current_epoch, numbers(batch)])
        return self.layer(torch.zeros(1, 1)).sum()

    def validation_step(self, batch, index):
        self.seen["validate"].append(numbers(batch))

    def predict_step(self, batch, index):
        self.seen["predict"].append(numbers(batch))

    def write(self, *stages):
        file = pathlib.Path(f"{self.file}-{self.global_rank}.json")
        before = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(before | {stage: self.seen[stage] for stage in stages}))

    def on_fit_end(self):
        self.write("fit", "validate")

    def on_predict_end(self):
        self.write("predict")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)

    def train_dataloader(self):
        return make(**self.loader)

    def val_dataloader(self):
        return make(**{**self.loader, "form": "in order"})

    predict_dataloader = val_dataloader


def run(kind, path, folder, form, workers, strategy, overfit=0.0, start=None):
    """Fit for two epochs with a validation each, and predict."""
    pl.seed_everything(3, verbose=False)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=2 if strategy else 1, strategy=strategy or "auto",
        use_distributed_sampler=form != "by hand", overfit_batches=overfit, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loader = {"kind": kind, "path": path, "form": form, "workers": workers, "start": start}
    model = Model(loader, f"{folder}/{kind}")
    trainer.fit(model)
    if form == "in order":
        trainer.predict(model, return_predictions=False)


def main(path, folder, options):
    """The options are those of ``run``, in JSON, for several kinds."""
    options = json.loads(options)
    for chosen in options.pop("kinds"):
        run(chosen, path, folder, **options)
