// The service of this repository, written as in Hanko's guide for Go: Echo and lestrrat-go/jwx, with a cached JWK Set.
package main

import (
	"context"
	"errors"
	"log"
	"net/http"
	"os"
	"strings"

	"github.com/labstack/echo/v4"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
)

type message struct {
	Message string `json:"message"`
}

var errNoToken = errors.New("no token")

// sessionToken returns the token of the Authorization header, or without that header, of the cookie `hanko`.
func sessionToken(request *http.Request) (string, error) {
	if header := request.Header.Get("Authorization"); header != "" {
		token, isBearer := strings.CutPrefix(header, "Bearer ")
		if !isBearer {
			return "", errNoToken
		}
		return token, nil
	}
	cookie, err := request.Cookie("hanko")
	if err != nil {
		return "", errNoToken
	}
	return cookie.Value, nil
}

func sessionMiddleware(keys jwk.Set) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			token, err := sessionToken(c.Request())
			if err != nil {
				return echo.NewHTTPError(http.StatusUnauthorized)
			}
			if _, err := jwt.Parse([]byte(token), jwt.WithKeySet(keys)); err != nil {
				return echo.NewHTTPError(http.StatusUnauthorized)
			}
			return next(c)
		}
	}
}

func main() {
	url := os.Getenv("HANKO_API_URL") + "/.well-known/jwks.json"
	ctx := context.Background()
	cache := jwk.NewCache(ctx)
	if err := cache.Register(url); err != nil {
		log.Fatal(err)
	}
	if _, err := cache.Refresh(ctx, url); err != nil {
		log.Fatal(err)
	}
	e := echo.New()
	e.HideBanner = true
	e.HidePort = true
	e.GET("/", func(c echo.Context) error {
		return c.JSON(http.StatusOK, message{"Poem x Hanko!"})
	})
	e.GET("/protected", func(c echo.Context) error {
		return c.JSON(http.StatusOK, message{"Hello from protected route!"})
	}, sessionMiddleware(jwk.NewCachedSet(cache, url)))
	log.Fatal(e.Start("127.0.0.1:" + os.Getenv("PORT")))
}
