"""The part of FastAPI that is mounted on."""


class FastAPI:
    def get(self, path):
        return lambda function: function
