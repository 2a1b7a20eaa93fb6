-- Until when what a former node's NFS clients had locked is kept for them; NULL: it is not, any more. Begins anew where it ran out while
-- no node could act.
ALTER TABLE past_member ADD COLUMN kept_until timestamptz;
UPDATE past_member AS p SET kept_until = p.at + interval '20 seconds'
  WHERE EXISTS (SELECT 1 FROM nfs_locked l WHERE l.epoch = p.epoch);
-- For nodes that don't know the column.
ALTER TABLE past_member ALTER COLUMN kept_until SET DEFAULT clock_timestamp() + interval '20 seconds';
CREATE INDEX past_member_kept ON past_member(kept_until) WHERE kept_until IS NOT NULL;
