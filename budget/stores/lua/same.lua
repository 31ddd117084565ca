-- Whether a request that comes again is the same.

local function same_request(record, kept)
  -- As text: the first format had no other.
  local function asked_digest(kept)
    local form, _, _, from, width, length = layout(kept)
    local digest = string.sub(kept, from + width, from + width + length - 1)
    if form % 16 >= 8 then digest = '\0' .. digest elseif string.byte(digest) ~= 0 then return digest end
    return (string.gsub(string.sub(digest, 2), '.', function(c) return string.format('%02x', string.byte(c)) end))
  end

  return asked_digest(read_record(record).kept) == asked_digest(kept)
end
