from __future__ import annotations


def webhook_problems(config):
    return ()


class WebhookBackend:
    def __init__(self, settings):
        raise NotImplementedError
