// Calls the running service with the client that ogen generated.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/ogen-go/ogen/ogenerrors"

	"clients/checks"
	"clients/ogen/client"
)

// credentials are those that a client sends. An empty one is not sent.
type credentials struct{ bearer, cookie string }

func (c credentials) Bearer(context.Context, client.OperationName) (client.Bearer, error) {
	if c.bearer == "" {
		return client.Bearer{}, ogenerrors.ErrSkipClientSecurity
	}
	return client.Bearer{Token: c.bearer}, nil
}

func (c credentials) Cookie(context.Context, client.OperationName) (client.Cookie, error) {
	if c.cookie == "" {
		return client.Cookie{}, ogenerrors.ErrSkipClientSecurity
	}
	return client.Cookie{APIKey: c.cookie}, nil
}

func with(c credentials) *client.Client {
	api, err := client.NewClient(checks.Variable("API"), c)
	if err != nil {
		log.Fatal(err)
	}
	return api
}

var (
	ctx    = context.Background()
	bearer = with(credentials{bearer: checks.Variable("TOKEN")})
	cookie = with(credentials{cookie: strings.TrimPrefix(checks.Variable("COOKIE"), "hanko=")})
)

// refused checks a problem and its challenge, a string or an OptString, depending on whether the document requires it.
func refused(problem client.Problem, challenge any, status int, slug string) error {
	if !strings.Contains(fmt.Sprint(challenge), "Bearer") {
		return fmt.Errorf("the challenge is %q", challenge)
	}
	return errors.Join(checks.Equal(int(problem.Status), status), checks.Equal(problem.Type, "/problems/"+slug))
}

// body returns the body of a success. Its type depends on the other operations of the document.
func body[T any](response any, err error) (T, error) {
	if err != nil {
		return *new(T), err
	}
	success, ok := response.(interface{ GetResponse() T })
	if !ok {
		return *new(T), fmt.Errorf("responded with a %T", response)
	}
	return success.GetResponse(), nil
}

func protected(api *client.Client) error {
	response, err := api.GetProtectedGreeting(ctx)
	greeting, err := body[client.Greeting](response, err)
	if err != nil {
		return err
	}
	return checks.Equal(greeting.Message, "Hello from protected route!")
}

func me(api *client.Client) (client.SessionView, error) {
	response, err := api.GetMe(ctx)
	return body[client.SessionView](response, err)
}

func main() {
	checks.Run("ogen", []checks.Check{
		{Name: "/ without credentials", Run: func() error {
			response, err := with(credentials{}).GetGreeting(ctx)
			greeting, err := body[client.Greeting](response, err)
			if err != nil {
				return err
			}
			return checks.Equal(greeting.Message, "Poem x Hanko!")
		}},
		{Name: "/protected with a Bearer token", Run: func() error { return protected(bearer) }},
		{Name: "/me with a Bearer token", Run: func() error {
			session, err := me(bearer)
			if err != nil {
				return err
			}
			return errors.Join(
				checks.Equal(session.Email.Value.Address, "ada@example.com"),
				checks.Equal(session.Username.Set, false),
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
			return checks.Equal(session.Username.Value, "grace")
		}},
		{Name: "401 with a bad token", Run: func() error {
			response, err := with(credentials{bearer: "not.a.token"}).GetMe(ctx)
			if err != nil {
				return err
			}
			problem, ok := response.(*client.GetMeUnauthorized)
			if !ok {
				return fmt.Errorf("responded with a %T", response)
			}
			return refused(problem.Response, problem.WWWAuthenticate, 401, "invalid-token")
		}},
		{Name: "403 of a guard", Run: func() error {
			guest := with(credentials{bearer: checks.Variable("UNVERIFIED")})
			response, err := guest.GetVerifiedGreeting(ctx)
			if err != nil {
				return err
			}
			problem, ok := response.(*client.GetVerifiedGreetingForbidden)
			if !ok {
				return fmt.Errorf("responded with a %T", response)
			}
			return refused(problem.Response, problem.WWWAuthenticate, 403, "insufficient-permission")
		}},
		// ogen sends no request that lacks the credentials that the document requires.
		{Name: "no credentials", Run: func() error {
			_, err := with(credentials{}).GetMe(ctx)
			return checks.Equal(errors.Is(err, ogenerrors.ErrSecurityRequirementIsNotSatisfied), true)
		}},
	})
}
