// Calls the running service with the client that oapi-codegen generated.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"clients/checks"
	"clients/oapicodegen/client"
)

// with returns a client that sends this header with every request.
func with(name, value string) *client.ClientWithResponses {
	header := func(_ context.Context, request *http.Request) error {
		request.Header.Set(name, value)
		return nil
	}
	api, err := client.NewClientWithResponses(checks.Variable("API"), client.WithRequestEditorFn(header))
	if err != nil {
		log.Fatal(err)
	}
	return api
}

var (
	ctx       = context.Background()
	anonymous = with("X-Unused", "none")
	bearer    = with("Authorization", "Bearer "+checks.Variable("TOKEN"))
	cookie    = with("Cookie", checks.Variable("COOKIE"))
)

func refused(problem *client.Problem, response *http.Response, status int, slug string) error {
	if problem == nil {
		return fmt.Errorf("not a typed %d, but %s", status, response.Status)
	}
	challenge := response.Header.Get("WWW-Authenticate")
	if !strings.HasPrefix(challenge, "Bearer") {
		return fmt.Errorf("the challenge is %q", challenge)
	}
	return errors.Join(checks.Equal(int(problem.Status), status), checks.Equal(problem.Type, "/problems/"+slug))
}

func protected(api *client.ClientWithResponses) error {
	response, err := api.GetProtectedGreetingWithResponse(ctx)
	if err != nil {
		return err
	}
	if response.JSON200 == nil {
		return errors.New(response.Status())
	}
	return checks.Equal(response.JSON200.Message, "Hello from protected route!")
}

func me(api *client.ClientWithResponses) (*client.SessionView, error) {
	response, err := api.GetMeWithResponse(ctx)
	if err != nil {
		return nil, err
	}
	if response.JSON200 == nil {
		return nil, errors.New(response.Status())
	}
	return response.JSON200, nil
}

func unauthorized(api *client.ClientWithResponses, slug string) error {
	response, err := api.GetMeWithResponse(ctx)
	if err != nil {
		return err
	}
	return refused(response.ApplicationproblemJSON401, response.HTTPResponse, 401, slug)
}

func main() {
	checks.Run("oapi-codegen", []checks.Check{
		{Name: "/ without credentials", Run: func() error {
			response, err := anonymous.GetGreetingWithResponse(ctx)
			if err != nil {
				return err
			}
			if response.JSON200 == nil {
				return errors.New(response.Status())
			}
			return checks.Equal(response.JSON200.Message, "Poem x Hanko!")
		}},
		{Name: "/protected with a Bearer token", Run: func() error { return protected(bearer) }},
		{Name: "/me with a Bearer token", Run: func() error {
			session, err := me(bearer)
			if err != nil {
				return err
			}
			if session.Email == nil {
				return errors.New("no e-mail address")
			}
			return errors.Join(
				checks.Equal(session.Email.Address, "ada@example.com"),
				checks.Equal(session.Username == nil, true),
				checks.Equal(session.ExpiresAt.After(time.Now()), true),
				checks.Equal(len(session.Claims), 0),
			)
		}},
		{Name: "/protected with the cookie", Run: func() error { return protected(cookie) }},
		{Name: "/me with the cookie", Run: func() error {
			session, err := me(cookie)
			if err != nil {
				return err
			}
			if session.Username == nil {
				return errors.New("no username")
			}
			return checks.Equal(*session.Username, "grace")
		}},
		{Name: "401 without credentials", Run: func() error { return unauthorized(anonymous, "missing-credentials") }},
		{Name: "401 with a bad token", Run: func() error {
			return unauthorized(with("Authorization", "Bearer not.a.token"), "invalid-token")
		}},
		{Name: "403 of a guard", Run: func() error {
			guest := with("Authorization", "Bearer "+checks.Variable("UNVERIFIED"))
			response, err := guest.GetVerifiedGreetingWithResponse(ctx)
			if err != nil {
				return err
			}
			return refused(response.ApplicationproblemJSON403, response.HTTPResponse, 403, "insufficient-permission")
		}},
	})
}
