package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"

	"github.com/lib/pq"
	"github.com/shirou/gopsutil/v4/disk"
	"github.com/shirou/gopsutil/v4/mem"
)

// externalURL is the environment variable that names a server to use instead of a private one.
const externalURL = "FLOTILLA_TEST_DATABASE_URL"

// shared is the one server of this test process: there is one process to share it in, and its TestMain ends it.
var shared sharedServer

// sharedServer is started by the first test that needs it.
type sharedServer struct {
	once sync.Once
	err  error

	private *instance // nil: an external server
	admin   *sql.DB
	base    *url.URL

	mu        sync.Mutex
	templates map[string]*template
}

type template struct {
	once sync.Once
	name string
	err  error
}

func (s *sharedServer) get(ctx context.Context) (*sharedServer, error) {
	s.once.Do(func() { s.err = s.start(ctx) })
	return s, s.err
}

func (s *sharedServer) start(ctx context.Context) error {
	s.templates = make(map[string]*template)
	maintenance := os.Getenv(externalURL)
	if maintenance == "" {
		private, err := newInstance(ctx, instanceConfig{settings: quick(), parent: memory()})
		if err != nil {
			return err
		}
		s.private = private
		maintenance = private.url("postgres")
	}
	var err error
	if s.base, err = url.Parse(maintenance); err != nil {
		return fmt.Errorf("%s is not a URL: %w", externalURL, err)
	}
	if s.admin, err = sql.Open("postgres", maintenance); err != nil {
		return err
	}
	// Creating a database is work for the disk: more at once would only be slower each.
	s.admin.SetMaxOpenConns(4)
	return nil
}

// quick trades all safety for speed: nothing outlives the test process anyway.
func quick() map[string]string {
	return map[string]string{
		"fsync":              "off",
		"full_page_writes":   "off",
		"synchronous_commit": "off",
		"max_connections":    "200",
		"shared_buffers":     "64MB",
		"max_wal_size":       "256MB", // it may lie in memory
	}
}

// memory is a folder in memory where the machine has one with room to spare, else empty. A new database is some three
// hundred files, which a busy disk takes ten times as long to create.
func memory() string {
	const folder, gigabyte = "/dev/shm", 1 << 30
	if os.Getenv("TMPDIR") != "" { // somebody chose where temporary files go
		return ""
	}
	room, err := disk.Usage(folder)
	if err != nil || room.Fstype != "tmpfs" || room.Free < 2*gigabyte {
		return ""
	}
	if ram, err := mem.VirtualMemory(); err != nil || ram.Available < 4*gigabyte {
		return ""
	}
	return folder
}

func (s *sharedServer) url(name string) string {
	u := *s.base
	u.Path = "/" + name
	return u.String()
}

// template returns the database to clone, which the first to ask for it makes.
func (s *sharedServer) template(ctx context.Context, o options) (string, error) {
	if o.migrate == nil {
		return "template0", nil
	}
	s.mu.Lock()
	made, known := s.templates[o.template]
	if !known {
		made = &template{name: uniqueName("template")}
		s.templates[o.template] = made
	}
	s.mu.Unlock()
	made.once.Do(func() { made.err = s.prepare(ctx, made.name, o.migrate) })
	return made.name, made.err
}

func (s *sharedServer) prepare(ctx context.Context, name string, migrate func(context.Context, string) error) error {
	if err := s.create(ctx, name, "template0"); err != nil {
		return err
	}
	if err := migrate(ctx, s.url(name)); err != nil {
		return fmt.Errorf("migrating: %w", err)
	}
	// A database can be cloned only while nobody is connected to it, so nobody may from here on. A connection that
	// migrate has just closed may take the server a moment to end: it is ended here.
	if _, err := s.admin.ExecContext(ctx, `ALTER DATABASE `+pq.QuoteIdentifier(name)+` ALLOW_CONNECTIONS false`); err != nil {
		return fmt.Errorf("closing the template: %w", err)
	}
	_, err := s.admin.ExecContext(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1`, name)
	if err != nil {
		return fmt.Errorf("ending the connections to the template: %w", err)
	}
	return nil
}

func (s *sharedServer) create(ctx context.Context, name, template string) error {
	_, err := s.admin.ExecContext(ctx, `CREATE DATABASE `+pq.QuoteIdentifier(name)+` TEMPLATE `+pq.QuoteIdentifier(template))
	if err != nil {
		return fmt.Errorf("creating database %s from %s: %w", name, template, err)
	}
	return nil
}

func (s *sharedServer) drop(ctx context.Context, name string) error {
	if _, err := s.admin.ExecContext(ctx, `DROP DATABASE IF EXISTS `+pq.QuoteIdentifier(name)+` WITH (FORCE)`); err != nil {
		return fmt.Errorf("dropping database %s: %w", name, err)
	}
	return nil
}

// close ends what start has started. The zero value has nothing to end.
func (s *sharedServer) close() error {
	if s.admin == nil {
		return s.private.remove()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var errs []error
	if s.private == nil {
		for _, made := range s.templates {
			errs = append(errs, s.drop(ctx, made.name))
		}
	}
	errs = append(errs, s.admin.Close(), s.private.remove())
	return errors.Join(errs...)
}
