-- The reason of a declined return is written for the customer and may name people: it is emptied when the customer is erased.
-- That is no change of the return that others hear of, so it counts no version: the guard fires for what is told alone.
DROP TRIGGER guard ON returns;
CREATE TRIGGER guard BEFORE UPDATE OF state ON returns FOR EACH ROW EXECUTE FUNCTION guard_log_order();
