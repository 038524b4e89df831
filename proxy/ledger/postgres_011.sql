-- Migration 11 of proxy/ledger/schema.py: what was asked and said, for tenants that want it, and until when it is kept.

ALTER TABLE tenants ADD COLUMN store_samples BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tenants ADD COLUMN store_samples_days BIGINT NOT NULL DEFAULT 30;
ALTER TABLE requests ADD COLUMN expires_at DOUBLE PRECISION;

CREATE TABLE samples (
    tenant TEXT NOT NULL,
    request TEXT NOT NULL,
    draw TEXT NOT NULL,
    "text" TEXT NOT NULL,
    cut BIGINT NOT NULL,
    PRIMARY KEY (tenant, request, draw)
);

-- earlier versions kept answers for ever: those run out 30 days after their request, though none within a day of the
-- last one
UPDATE requests SET expires_at = greatest(
    recorded_at + 30 * 86400.0, (SELECT max(recorded_at) FROM requests) + 86400.0
) WHERE samples > 0 OR question IS NOT NULL;

-- now that they have their values, for an index that is there makes each of them dearer
CREATE INDEX idx_requests_expires_at ON requests (expires_at) WHERE expires_at IS NOT NULL;
