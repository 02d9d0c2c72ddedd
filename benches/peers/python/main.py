"""The service of this repository as one would write it with FastAPI and PyJWT."""

import os

import jwt
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request

KEYS = jwt.PyJWKClient(os.environ["HANKO_API_URL"] + "/.well-known/jwks.json", cache_keys=True)
app = FastAPI()


def session(request: Request):
    """Verifies the token of the Authorization header, or without that header, of the `hanko` cookie."""
    header = request.headers.get("authorization")
    token = header.removeprefix("Bearer ") if header else request.cookies.get("hanko")
    if not token:
        raise HTTPException(401)
    try:
        key = KEYS.get_signing_key_from_jwt(token)
        return jwt.decode(token, key, algorithms=["RS256"], options={"verify_aud": False})
    except jwt.PyJWTError as error:
        raise HTTPException(401) from error


@app.get("/")
async def greeting():
    return {"message": "Poem x Hanko!"}


@app.get("/protected")
async def protected(_session: dict = Depends(session)):
    return {"message": "Hello from protected route!"}


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", access_log=False)
